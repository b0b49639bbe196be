"""The laws every family keeps for every modality it runs on: one test each, for every member.

Terms are finite and (B,) or (); each gives a gradient to exactly the playing networks; save → load is bit-equal;
sampling is a function of the seed alone; one batch can be learned by heart.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from morphogen.config import AugmentConfig
from morphogen.data.text import packed
from morphogen.families import FAMILIES, CycleGAN, CycleVAE, Turn
from morphogen.families.critic import whole
from morphogen.modalities import MODALITIES
from morphogen.modalities.text import text_options
from morphogen.model import Description, Model, build_family, load, save_model
from morphogen.nets import DISCRIMINATORS, ENCODERS, GENERATORS
from morphogen.precision import choose

SPACES = {
    "image": [(1, 28, 28), (3, 16, 24), (1, 8, 8), (3, 30, 17)], "points": [(2,)], "audio": [(1, 64, 16)],
    "text": [(8,)],
}  # fmt: skip
SOUND = {"rate": 8000, "samples": 2048, "n_fft": 256, "hop": 128, "vocoder": {"dim": 16, "depth": 1}}
TEXTS = ["abc", "bca d", "ee", "", "a", "dab"]
GRU, PLACES = {"kind": "gru", "hidden": 8, "embed": 8}, {"kind": "places", "hidden": 8}
CONV, LADDER = {"kind": "conv", "width": 8}, {"kind": "ladder", "width": 8}
OPTIONS = {
    "gan": {"image": {"generator": CONV, "discriminator": {**CONV, "features": 16}},
            "points": {"generator": {"kind": "dense"}, "discriminator": {"kind": "dense"}}},
    "vae": {"image": {"encoder": {**CONV, "features": 16}, "decoder": CONV, "importance_samples": 2},
            "points": {"encoder": {"kind": "dense"}, "decoder": {"kind": "dense"}, "prior": {"kind": "flow"}}},
    "vae ladder": {"image": {"encoder": {**LADDER, "features": 16}, "decoder": LADDER, "likelihood": "logistic",
                             "components": 2, "prior": {"kind": "mixture", "components": 3}}},
    "vae vamp": {"image": {"encoder": {**CONV, "features": 16}, "decoder": CONV, "likelihood": "bernoulli",
                           "binarize": True, "prior": {"kind": "vamp", "components": 6}, "dreg": True}},
}  # fmt: skip
"""family, and what sets it apart, → modality → its options."""
CRITICS = {"critic_a": {"width": 8}, "critic_b": {"width": 8}}
OPTIONS["gan noise"] = {
    "image": OPTIONS["gan"]["image"] | {"noise": {}},
    "points": {"generator": {"kind": "dense", "waves": 2}, "noise": {"power": 0.5},
               "discriminator": {"kind": "dense", "waves": 2, "plain": 1}},
}  # fmt: skip
OPTIONS["gan projected"] = {
    "image": {"generator": CONV, "discriminator": {**CONV, "kind": "projected", "features": 16, "heads": 4}}
}
OPTIONS["cycle_gan"] = {
    "image": {"to_a": CONV, "to_b": {**CONV, "features": 16}, "critic_a": {**CONV, "features": 16}},
    "points": {f"{role}_{side}": {"kind": "dense"} for role in ("to", "critic") for side in "ab"},
}
OPTIONS["cycle_gan joint"] = {
    "image": OPTIONS["cycle_gan"]["image"] | {"critic_joint": {"width": 8, "features": 16, "hidden": 16}}
}
OPTIONS["cycle_vae"] = {
    "image": {"encoder": {**CONV, "features": 16}, "decoder": CONV, "critic": {**CONV, "features": 16}},
    "points": {role: {"kind": "dense"} for role in ("encoder", "decoder", "critic")},
}
OPTIONS["cycle_vae ladder"] = {
    "image": {"encoder": {**LADDER, "features": 16}, "decoder": LADDER, "critic": {**CONV, "features": 16}}
}
OPTIONS["cycle_vae whitened"] = {
    "image": OPTIONS["cycle_vae"]["image"] | {"guess": {**CONV, "features": 16}},
    "points": OPTIONS["cycle_vae"]["points"] | {"guess": {"kind": "dense"}},
}
TWO_DOMAINS = {
    "cycle_gan styles": {
        "image": {
            "to_a": {"width": 8, "blocks": 1},
            "to_b": {"width": 8, "blocks": 1},
            **CRITICS,
            "style_dim": 2,
            "style": {"width": 8, "features": 16},
        }
    },
    "cycle_gan two": {"image": {"to_a": {"width": 8, "blocks": 1}, "to_b": {"kind": "unet", "width": 8}, **CRITICS}},
}
for _family in (*FAMILIES, "cycle_gan two"):
    _members = (TWO_DOMAINS if _family in TWO_DOMAINS else OPTIONS)[_family]
    _members["audio"] = _members["image"]
OTHERS = {
    (1, 64, 16): (1, 64, 16),
    (1, 28, 28): (1, 28, 28),
    (3, 16, 24): (1, 12, 12),
    (1, 8, 8): (1, 8, 8),
    (3, 30, 17): (3, 30, 17),
}
"""the space of the first domain → that of the second."""
OPTIONS["vae"]["text"] = {"likelihood": "autoregressive", "encoder": GRU, "decoder": GRU, "importance_samples": 2}
OPTIONS["cycle_vae"]["text"] = {"likelihood": "categorical", "encoder": PLACES, "decoder": PLACES, "critic": PLACES}
TWO_DOMAINS["cycle_gan text"] = {"text": {f"{role}_{side}": PLACES for role in ("to", "critic") for side in "ab"}}
WITHOUT_TEXT = ("gan", "cycle_gan")  # one works on codes of text, the other between two texts
MEMBERS = [(f, m, s, k) for f in OPTIONS for m in OPTIONS[f] for s in SPACES[m] for k in (0, 3)
           if (f, k) != ("cycle_vae ladder", 3)]  # fmt: skip  # a ladder's lower codes depend on the domain
ALL_MEMBERS = MEMBERS + [(f, m, s, 0) for f in TWO_DOMAINS for m in TWO_DOMAINS[f] for s in SPACES[m]]


def test_every_family_and_modality_is_here():
    assert {f.split()[0] for f in OPTIONS} == set(FAMILIES)
    assert all(set(OPTIONS[f]) | ({"text"} if f in WITHOUT_TEXT else set()) == set(MODALITIES) for f in FAMILIES)


def make(family: str, modality: str, space: tuple[int, ...], classes: int, seed: int = 0, **options):
    settings = SOUND if modality == "audio" else {}
    if modality == "text":
        settings = text_options(TEXTS, []) | {"relaxed": not family.startswith("vae")}
    other = {"modality": modality, "space": list(OTHERS.get(space, space)), "options": settings}
    description = Description(
        family=family.split()[0], modality=modality, space=list(space), modality_options=settings,
        other=other if family in TWO_DOMAINS else {},
        options={"latent_dim": 4, **(OPTIONS | TWO_DOMAINS)[family][modality], **options},
        classes=[str(k) for k in range(classes)], label="label" if classes else None, label_counts=[1] * classes,
    )  # fmt: skip
    augment = AugmentConfig(mode="fixed", probability=0.5)
    return build_family(description, augment, seed=seed), description


def a_batch(family, space, classes, size=6):
    generator = torch.Generator().manual_seed(1)
    if family.modality.name == "text":
        x = family.modality.encode(torch.from_numpy(family.modality.stored(packed(TEXTS, *space))))
    else:
        x = torch.rand(size, *space, generator=generator) * 2 - 1
    batch = {"a": x, "heldout": x.flip(0)}
    if classes:
        batch["label"] = batch["heldout_label"] = torch.arange(size) % classes
    if family.other is not None:
        batch["b"] = (
            x.flip(0) if x.shape[1:] != space else torch.rand(size, *family.other.space, generator=generator) * 2 - 1
        )
    family.prepare(x, batch.get("b"))
    return batch


def expected_terms(family, player) -> set[str]:
    """All terms of the player, but those for which there is something missing: two domains of one space, a teacher,
    styles, a critic of pairs, domains, a guess of them."""
    missing = []
    if isinstance(family, CycleGAN):
        missing += [] if family.other is not None and family.other.space == family.modality.space else ["identity"]
        missing += ["semantic"] + ["style"] * (not family.options.style_dim)
        missing += ["adversarial_joint", "critic_joint", "r1_joint"] * (family.options.critic_joint is None)
    if isinstance(family, CycleVAE):
        missing += [] if family.classes else ["adversarial", "blind"]
        missing += [] if family.guesses else ["guess", "domain"]
    return {term for term in family.terms[player] if not term.startswith(tuple(missing))}


@pytest.mark.parametrize(("name", "modality", "space", "classes"), ALL_MEMBERS)
def test_terms_and_gradient_ownership(name, modality, space, classes):
    family, _ = make(name, modality, space, classes)
    batch, cache = a_batch(family, space, classes), {}
    for player, owned in family.players.items():
        if not owned:
            continue
        for module_name, module in family.named_children():
            module.requires_grad_(module_name in owned)
        weights = {term: 1.0 for names in family.terms.values() for term in names}
        terms = family.losses(Turn(player, 0, 0, weights, cache=cache), batch)
        assert terms.keys() == expected_terms(family, player)
        for term in terms.values():
            assert term.shape in ((len(batch["a"]),), ())
            assert torch.isfinite(term).all()
        sum(t.mean() for t in terms.values()).backward()
        for module_name, module in family.named_children():
            for parameter_name, parameter in module.named_parameters():
                where = f"{player}: {module_name}.{parameter_name}"
                if module_name in owned:
                    assert parameter.grad is not None, where
                    assert torch.isfinite(parameter.grad).all(), where
                else:
                    assert parameter.grad is None, where
        family.zero_grad(set_to_none=True)


@pytest.mark.parametrize(("name", "modality", "space", "classes"), ALL_MEMBERS)
def test_save_and_load_are_bit_equal(tmp_path, name, modality, space, classes):
    family, description = make(name, modality, space, classes)
    a_batch(family, space, classes)
    save_model(family, description, tmp_path / "model")
    again = load(tmp_path)
    family = choose("float32").place(family)  # in another memory format a sum may round otherwise
    for key, value in family.state_dict().items():
        if family.only_trains(key):
            continue
        assert torch.equal(value, again.family.state_dict()[key]), key
    if family.other is None:
        assert (Model(family, description).sample(5, 3) == again.sample(5, 3)).all()
    else:
        items = torch.randint(0, 256, (3, *family.modality.item_space), dtype=torch.uint8).numpy()
        items = items * np.int16(99) if modality == "audio" else items
        items = np.array(TEXTS) if modality == "text" else family.modality.array(items)
        assert (Model(family, description).translate(items, "b") == again.translate(items, "b")).all()


@pytest.mark.parametrize(("name", "modality", "space", "classes"), MEMBERS)
def test_samples_are_a_function_of_the_seed_alone(name, modality, space, classes):
    model = Model(*make(name, modality, space, classes))
    first = model.sample(5, seed=7)
    torch.manual_seed(123)
    assert (model.sample(5, seed=7) == first).all()
    assert (model.sample(130, seed=7)[:5] == first).all()
    assert (model.sample(1, seed=7) == first[:1]).all()
    assert (model.sample(5, seed=8) != first).any()
    if classes:
        cycle = model.sample(6, seed=7, label="all")
        assert np.all(model.sample(6, seed=7, label="1")[1] == cycle[1])


@pytest.mark.parametrize(("name", "modality"), [(f, m) for f in OPTIONS for m in OPTIONS[f]])
def test_shapes_of_samples_follow_the_contract(name, modality):
    for space in SPACES[modality]:
        items = Model(*make(name, modality, space, 0)).sample(3)
        if modality == "text":
            assert items.shape == (3,)
            assert items.dtype.kind == "U"
        elif modality in ("points", "audio"):
            assert items.shape == (3, *(space if modality == "points" else (2048,)))
            assert items.dtype.name == "float32"
        else:
            c, h, w = space
            assert items.shape == ((3, h, w) if c == 1 else (3, h, w, c))
            assert items.dtype.name == "uint8"


def test_codec_is_exact_on_every_grey_level():
    image = MODALITIES["image"]((1, 16, 16))
    raw = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    assert (image.decode(image.encode(raw)) == raw.numpy()).all()


def test_codec_of_points_is_exact_to_rounding():
    points = MODALITIES["points"]((2,), mean=3.0, scale=2.5)
    raw = torch.randn(50, 2) * 4
    assert abs(points.decode(points.encode(raw)) - raw.numpy()).max() < 1e-5


SMALL = {"conv": {"width": 8}, "residual": {"width": 8}, "dense": {"hidden": [64]}, "ladder": {"width": 8},
         "frames": {"width": 32}, "maps": {"width": 8}, "projected": {"width": 8, "heads": 4}}  # fmt: skip


@pytest.mark.parametrize("kind", DISCRIMINATORS)
def test_one_batch_can_be_learned_by_heart(kind):
    """A discriminator of each kind separates 16 random images from 16 others."""
    torch.manual_seed(0)
    options = {"discriminator": {"kind": kind, **SMALL[kind]}}
    family, _ = make("gan", "image", (1, 16, 16), 0, **options)
    x, y = torch.rand(32, 1, 16, 16) * 2 - 1, (torch.arange(32) < 16).float()
    for name, seen in family.discriminator.named_buffers():  # of a frozen trunk, which nobody taught here
        seen.copy_(0.3 * torch.randn_like(seen) if "weight" in name else seen)
    optimizer = torch.optim.Adam(family.discriminator.parameters(), 3e-3)
    for _ in range(150):
        loss = torch.nn.functional.binary_cross_entropy_with_logits(whole(family.discriminator(x)), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.05


@pytest.mark.parametrize("kind", [kind for kind, net in ENCODERS.items() if 3 in net.ranks])
def test_one_batch_can_be_reconstructed_by_heart(kind):
    """A VAE of each kind, asked for the reconstruction only, learns 8 random images."""
    torch.manual_seed(0)
    decoder = {"kind": kind, **SMALL[kind]}
    family, _ = make("vae", "image", (1, 16, 16), 0, latent_dim=16, encoder=decoder, decoder=decoder)
    x = torch.rand(8, 1, 16, 16) * 2 - 1
    family.augment.mode = "off"  # what changes from step to step is not learned by heart
    family.prepare(x)
    optimizer = torch.optim.Adam(family.parameters(), 3e-3)
    for step in range(200):
        loss = family.losses(Turn("autoencoder", step, 0, {"reconstruction": 1.0}), {"a": x})["reconstruction"].mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert (family.eval().generate(family.encode(x, None, 0), None) - x).square().mean() < 0.3 * x.var()


@pytest.mark.parametrize("kind", GENERATORS)
@pytest.mark.parametrize("space", [(1, 8, 8), (3, 30, 17), (1, 64, 48)])
def test_every_generator_gives_every_shape_and_inversion_finds_its_own_items(kind, space):
    family, _ = make("gan", "image", space, 2, generator={"kind": kind, **SMALL[kind]})
    family.eval()
    labels = torch.tensor([0, 1, 1])
    z = family.noise(3, 5)
    x = family.generate(z, labels)
    assert x.shape == (3, *space)
    family.prepare(x)
    found = family.encode(x.detach(), labels, seed=0, steps=60)
    best_of_random = family._nearest_start(x.detach(), labels, 0, 200)
    error = [(family.generate(c, labels) - x).square().mean().item() for c in (found, best_of_random)]
    assert error[0] < 0.5 * error[1]


def test_truncation_bounds_the_noise_and_temperature_scales_it():
    family, _ = make("gan", "points", (2,), 0)
    free, cut = family.noise(500, 1), family.noise(500, 1, truncation=0.7)
    assert free.abs().max() > 2
    assert cut.abs().max() <= 0.7
    # the standard deviation of a normal cut at ±t is sqrt(1 − 2 t φ(t) / (2Φ(t) − 1))
    assert cut.std().item() == pytest.approx((1 - 2 * 0.7 * 0.31225 / 0.51607) ** 0.5, rel=0.05)
    assert torch.equal(family.noise(500, 1, temperature=0.5), 0.5 * free)


def test_a_relativistic_score_gives_typical_samples_one_half():
    family, _ = make("gan", "image", (1, 16, 16), 3)
    family.eval().requires_grad_(False)
    labels = torch.full((300,), 2)
    x = torch.cat(list(family.items_of(family.noise(300, 9), labels)))
    assert family.score(x, labels).logit().mean().abs() < 0.05


def test_a_score_of_another_loss_is_the_sigmoid_of_the_logit():
    family, _ = make("gan", "image", (1, 16, 16), 0, loss="nonsaturating")
    family.eval().requires_grad_(False)
    x = torch.rand(7, 1, 16, 16)
    assert torch.allclose(family.score(x, None), torch.sigmoid(family.discriminator(x)))


def test_initialisation_depends_on_seed_and_name_only():
    one, _ = make("gan", "image", (1, 16, 16), 0, seed=3)
    torch.rand(17)
    two, _ = make("gan", "image", (1, 16, 16), 0, seed=3)
    other, _ = make("gan", "image", (1, 16, 16), 0, seed=4)
    wide, _ = make("gan", "image", (1, 16, 16), 0, seed=3, discriminator={"kind": "conv", "width": 16})
    key = "generator.dense.weight"
    assert torch.equal(one.state_dict()[key], two.state_dict()[key])
    assert not torch.equal(one.state_dict()[key], other.state_dict()[key])
    assert torch.equal(one.state_dict()[key], wide.state_dict()[key])
