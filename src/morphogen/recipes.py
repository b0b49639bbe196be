"""Recipes: functions that return a complete configuration, by name. Adding one is a function and a line in RECIPES."""

from __future__ import annotations

from collections.abc import Callable

from morphogen.config import (
    AugmentConfig,
    Config,
    DataConfig,
    EvaluateConfig,
    Kind,
    PlayerConfig,
    SampleConfig,
    TermConfig,
    TrainConfig,
)


def gan_image() -> Config:
    """A GAN on pictures: relativistic loss with R1 and R2, transposed convolutions, adaptive augmentation.

    Nothing in it needs tuning to the size of the pictures or of the data set: the penalties are measured in units of
    the data's own spread, and augmentation begins only when the discriminator learns items by heart.
    """
    return Config(
        recipe="gan-image",
        family="gan",
        modality="image",
        model={
            "latent_dim": 64,
            "loss": "relativistic",
            "penalty": "difference",  # about as good as the exact form in equal minutes: RESULTS.md
            "generator": {"kind": "conv", "width": 64},
            "discriminator": {"kind": "conv", "width": 32},
        },
        terms={
            "generator": TermConfig(),
            "discriminator": TermConfig(),
            "r1": TermConfig(weight=1.2e-4, every=4),
            "r2": TermConfig(weight=1.2e-4, every=4),
        },
        players={"generator": PlayerConfig(lr=1e-3), "discriminator": PlayerConfig(lr=1e-3)},
        train=TrainConfig(steps=20_000, batch_size=64),
    )


def gan_points() -> Config:
    """A GAN on plain vectors, for toy truth: `--data builtin:grid` and `builtin:ring` show whether modes are lost.

    Vectors of more than a few numbers want a larger `model.latent_dim`.

    What D sees is noised at all levels at once, high ones meant to keep every mode, low ones to make it sharp;
    waves are to let a small generator jump from mode to mode; what lies between the modes all the same, D sorts out.
    """
    hidden = [128, 128, 128]
    return Config(
        recipe="gan-points",
        family="gan",
        modality="points",
        data=DataConfig(source="builtin:grid"),
        model={
            "latent_dim": 2,
            "loss": "relativistic",
            "generator": {"kind": "dense", "hidden": hidden, "waves": 5},
            "discriminator": {"kind": "dense", "hidden": hidden, "waves": 6, "plain": 1},
            "noise": {"least": 0.01, "most": 1.0},
        },
        terms={
            "generator": TermConfig(),
            "discriminator": TermConfig(),
            "r1": TermConfig(weight=0.01, every=4),
            "r2": TermConfig(weight=0.01, every=4),
        },
        players={
            "generator": PlayerConfig(lr=2e-3, betas=(0.5, 0.99)),
            "discriminator": PlayerConfig(lr=3e-3, betas=(0.5, 0.99)),
        },
        augment=AugmentConfig(mode="off"),
        train=TrainConfig(steps=10_000, batch_size=256, decay_from=0.3, precision="float32"),
        sample=SampleConfig(tries=32),  # what lies between the modes is seen by D
    )


def gan_seed() -> Config:
    """The seed text's own example, made to work.

    Kept: a generator of dense layers 128, 256, 512, 1024 with LeakyReLU (slope 0.3, Keras's default) and batch
    normalisation (Keras's momentum 0.8 is torch's 0.2) from 100-d noise; a convolutional discriminator with dropout
    0.3 that ends in one probability; Adam at 1e-4; 50 epochs; pictures of 28x28x1.

    Mended, since the listing cannot run:
    - its generator ended in 4x4x256, which the discriminator's 28x28x1 input does not fit: here the last dense layer
      gives 28x28x1 and a tanh;
    - its losses were running means of a metric, which carry no gradient: here they are the same two cross-entropies as
      functions of the logits (the non-saturating loss);
    - its discriminator upsampled and ended in tanh: here strided convolutions go down to one logit, and `score` gives
      its sigmoid, the probability;
    - `batch_size` and `noise_dim` were undefined: 128 and 100;
    - Adam's first beta is 0.5 (Keras's 0.9 makes such a pair oscillate), and samples come from averaged weights;
    - the discriminator's slope is penalised (R1, Mescheder et al. 2018): without it four of MNIST's ten digits were
      missing after 3,000 steps, and it grew worse.
    """
    return Config(
        recipe="gan-seed",
        family="gan",
        modality="image",
        data=DataConfig(size="28", channels=1),
        model={
            "latent_dim": 100,
            "loss": "nonsaturating",
            "generator": {"kind": "dense", "hidden": [128, 256, 512, 1024], "slope": 0.3, "norm_momentum": 0.2},
            "discriminator": {"kind": "conv", "width": 32, "dropout": 0.3},
        },
        terms={"generator": TermConfig(), "discriminator": TermConfig(), "r1": TermConfig(weight=1e-2, every=4)},
        players={
            "generator": PlayerConfig(lr=1e-4, betas=(0.5, 0.999)),
            "discriminator": PlayerConfig(lr=1e-4, betas=(0.5, 0.999)),
        },
        augment=AugmentConfig(mode="off"),
        train=TrainConfig(epochs=50, batch_size=128, schedule="constant"),
    )


def gan_codes() -> Config:
    """A GAN in the latent space of a trained VAE: its learned prior. `--set codec=RUN` names that VAE."""
    hidden = [256, 256, 256]
    config = gan_image()
    config.recipe = "gan-codes"
    config.model |= {
        "latent_dim": 32,
        "generator": {"kind": "dense", "hidden": hidden},
        "discriminator": {"kind": "dense", "hidden": hidden},
    }
    config.train = TrainConfig(steps=10_000, batch_size=256)
    return config


def cyclegan_image() -> Config:
    """A cycle GAN on pictures: `--data A --data-b B` for two sets of pictures, or a set and noise without --data-b.

    Two sets: translators of residual blocks, patch critics, cycles and identity; where one set has labels (data.label
    or data_b.label), a classifier of them holds the meaning. A set and noise: a GAN whose generator
    and encoder are joined in a loop, with a critic on the pictures and one on the codes.
    """
    return Config(
        recipe="cyclegan-image",
        family="cycle_gan",
        modality="image",
        data_b=DataConfig(source="builtin:noise"),
        model={"latent_dim": 64, "loss": "leastsquares"},
        terms={
            "adversarial_a": TermConfig(),
            "adversarial_b": TermConfig(),
            "cycle_a": TermConfig(weight=4.0),
            "cycle_b": TermConfig(weight=4.0),
            "identity_a": TermConfig(weight=2.0),
            "identity_b": TermConfig(weight=2.0),
            "semantic_a": TermConfig(weight=2.0),
            "semantic_b": TermConfig(weight=2.0),
            "style_a": TermConfig(),  # with model.style_dim
            "style_b": TermConfig(),
            "adversarial_joint": TermConfig(),  # with model.critic_joint
            "critic_a": TermConfig(),
            "critic_b": TermConfig(),
            "critic_joint": TermConfig(),
            "r1_a": TermConfig(weight=1.2e-4, every=4),
            "r1_b": TermConfig(weight=1.2e-4, every=4),
            "r1_joint": TermConfig(weight=1.2e-4, every=4),
        },
        players={
            "generator": PlayerConfig(lr=1e-3, betas=(0.5, 0.99)),
            "discriminator": PlayerConfig(lr=1e-3, betas=(0.5, 0.99)),
        },
        augment=AugmentConfig(mode="off"),
        train=TrainConfig(steps=20_000, batch_size=32, decay_from=0.5, schedule="linear"),
    )


def vae_image() -> Config:
    """A VAE on pictures: Gaussian likelihood of optimal scale, convolutions, its samples' prior chosen at the end.

    The optimal scale weighs reconstruction against KL by itself, so that there is no β to tune.
    """
    return Config(
        recipe="vae-image",
        family="vae",
        modality="image",
        model={
            "latent_dim": 32,
            "likelihood": "gaussian",
            "encoder": {"kind": "conv", "width": 32, "features": 128},
            "decoder": {"kind": "conv", "width": 64},
        },
        terms={"reconstruction": TermConfig(), "kl": TermConfig(warmup=500)},
        players={"autoencoder": PlayerConfig(lr=1e-3, betas=(0.9, 0.99))},
        augment=AugmentConfig(mode="off"),
        train=TrainConfig(steps=20_000, batch_size=128),
    )


def cyclevae_image() -> Config:
    """A cycle VAE on pictures: with `--set data.label=label` every label is a domain, and pictures are converted from
    one to another; without, what the decoder makes of one data set is encoded again.

    Between domains a critic judges the converted pictures, and a probe keeps the domain out of the code.
    """
    return Config(
        recipe="cyclevae-image",
        family="cycle_vae",
        modality="image",
        model={
            "latent_dim": 6,
            "likelihood": "gaussian",
            "scale": 0.65,
            "encoder": {"kind": "conv", "width": 32, "features": 128},
            "decoder": {"kind": "conv", "width": 48},
            "critic": {"kind": "conv", "width": 32},
            "guess": {"width": 8, "features": 32},
        },
        terms={
            "reconstruction": TermConfig(),
            "kl": TermConfig(warmup=500),
            "cycle": TermConfig(),
            "cycle_kl": TermConfig(warmup=500),
            "consistency": TermConfig(weight=1.0),
            "codes": TermConfig(weight=2.0),
            "adversarial": TermConfig(weight=60.0),
            "blind": TermConfig(weight=100.0, warmup=500),
            "guess": TermConfig(weight=30.0),
            "domain": TermConfig(weight=0.0),
            "critic": TermConfig(),
            "probe": TermConfig(),
            "r1": TermConfig(weight=1.2e-4, every=4),
            "r2": TermConfig(weight=1.2e-4, every=4),
        },
        players={
            "autoencoder": PlayerConfig(lr=1e-3, betas=(0.0, 0.99)),
            "discriminator": PlayerConfig(lr=1e-3, betas=(0.0, 0.99)),
            "probe": PlayerConfig(lr=1e-3, betas=(0.0, 0.99)),
        },
        augment=AugmentConfig(mode="off"),
        train=TrainConfig(steps=20_000, batch_size=64),
    )


SOUND_POLICY: list[Kind] = ["gain", "shift", "stretch", "noise", "masks"]


def gan_audio() -> Config:
    """A GAN on recordings: that of pictures, on spectrograms, with a vocoder trained before it on the same recordings.

    `--set data.label=NAME` conditions it, with sub-folders or `--set data.label_pattern='{digit}_{speaker}_{take}'`.
    """
    config = gan_image()
    config.recipe, config.modality, config.data.source = "gan-audio", "audio", "builtin:tones"
    config.augment = AugmentConfig(policy=SOUND_POLICY)
    config.terms["diversity"] = TermConfig(weight=5.0)  # recordings are few, of a label the more
    return config


def vae_audio() -> Config:
    """A VAE on recordings: that of pictures, on spectrograms, with a vocoder trained before it."""
    config = vae_image()
    config.recipe, config.modality, config.data.source = "vae-audio", "audio", "builtin:tones"
    return config


def cyclegan_audio() -> Config:
    """A cycle GAN on recordings: `--data A --data-b B` for two speakers or instruments, without parallel takes."""
    config = cyclegan_image()
    config.recipe, config.modality, config.data.source = "cyclegan-audio", "audio", "builtin:tones"
    config.augment = AugmentConfig(mode="off", policy=SOUND_POLICY)
    config.train.batch_size = 16
    return config


def cyclevae_audio() -> Config:
    """A cycle VAE on recordings: with `--set data.label=speaker` every speaker is a domain, and one model converts each
    to all others."""
    config = cyclevae_image()
    config.recipe, config.modality, config.data.source = "cyclevae-audio", "audio", "builtin:tones"
    config.augment = AugmentConfig(mode="off", policy=SOUND_POLICY)
    config.model |= {
        "latent_dim": 128,
        "guess": None,
        "scale": 0.12,
        "encoder": {"kind": "frames"},
        "decoder": {"kind": "frames"},
        "critic": {"kind": "conv", "width": 16, "most": 96, "features": 128},
    }
    weights = {"kl": 8.0, "cycle_kl": 8.0, "consistency": 3.0, "codes": 0.0, "adversarial": 250.0, "blind": 60.0}
    for name, weight in weights.items():
        config.terms[name].weight = weight
    config.terms["blind"].warmup = 1000  # what is said must be in the code before who says it goes
    config.terms["adversarial"].warmup = 1500
    config.players["autoencoder"].betas = (0.8, 0.99)
    config.evaluate.samplers = ["gmm"]
    config.train = TrainConfig(steps=8500, batch_size=32, warmup=50)
    return config


def vae_binary() -> Config:
    """A ladder VAE on black-and-white pictures, for likelihood: grey levels are read as probabilities of white."""
    network = {"kind": "ladder", "width": 32, "most": 64}
    return Config(
        recipe="vae-binary",
        family="vae",
        modality="image",
        model={
            "latent_dim": 32,
            "likelihood": "bernoulli",
            "binarize": True,
            "encoder": {**network, "depth": 1},
            "decoder": {**network, "layers": 2, "latent_channels": 4},
        },
        terms={"reconstruction": TermConfig(), "kl": TermConfig(warmup=2000)},
        players={"autoencoder": PlayerConfig(lr=2.5e-3, betas=(0.9, 0.99), clip=200.0)},
        augment=AugmentConfig(mode="off"),
        train=TrainConfig(steps=30_000, batch_size=128, warmup=100),
    )


def vae_text() -> Config:
    """A VAE on text: a bidirectional GRU reads, an autoregressive GRU that is fed z at every step writes.

    It does not collapse: every unit has free bits of KL, tokens are hidden from the decoder now and then, and the KL's
    weight rises slowly. The same decoder without z is trained as well, as the likelihood to compare with.
    """
    return Config(
        recipe="vae-text",
        family="vae",
        modality="text",
        data=DataConfig(source="builtin:words"),
        model={
            "latent_dim": 16,
            "likelihood": "autoregressive",
            "free_bits": 0.3,
            "encoder": {"kind": "gru", "hidden": 128, "embed": 128},
            "decoder": {"kind": "gru", "hidden": 256, "embed": 128},
        },
        terms={"reconstruction": TermConfig(), "kl": TermConfig(warmup=1000)},
        players={"autoencoder": PlayerConfig(lr=2e-3, betas=(0.9, 0.99), clip=20.0)},
        augment=AugmentConfig(mode="off"),
        train=TrainConfig(steps=4000, batch_size=64),
        evaluate=EvaluateConfig(language_model=True),
    )


def gan_text() -> Config:
    """A GAN on text: in the latent space of a text VAE, which is trained first, into RUN/codec, unless codec=RUN.

    Token by token, GANs lose to maximum likelihood at equal diversity wherever both were measured; so the curve of
    maximum likelihood over the temperature is always printed beside.
    """
    config = gan_codes()
    config.recipe, config.modality, config.codec = "gan-text", "text", "vae-text"
    # A codec that says less than it could leaves the decoder to know the language: its samples read better for it.
    config.codec_settings = {
        "model": {"latent_dim": 64, "free_bits": 0, "chosen_by": "reconstruction", "decoder": {"word_dropout": 0.05}},
        "terms": {"kl": {"weight": 0.17}},
    }
    wide = {"kind": "dense", "hidden": [512, 512, 512]}
    config.model |= {"generator": wide, "discriminator": wide}
    config.terms |= {name: TermConfig(weight=1e-2, every=4) for name in ("r1", "r2")}
    config.data = DataConfig(source="builtin:words")
    config.augment = AugmentConfig(mode="off")
    config.sample = SampleConfig(symbols=0.3)  # what to say is in the code: the decoder need not add chance
    return config


def cyclegan_text() -> Config:
    """A cycle GAN between two bodies of text without pairs: `--data A.txt --data-b B.txt`, character by character.

    Translators work on the probabilities of symbols, place by place; critics see each place's neighbours.
    """
    places, text = {"kind": "places"}, DataConfig(source="builtin:words", vocabulary="character")
    return Config(
        recipe="cyclegan-text",
        family="cycle_gan",
        modality="text",
        data=text,
        data_b=text.model_copy(),
        model={"loss": "leastsquares", "pool": 0, "to_a": places, "to_b": places, "critic_a": places,
               "critic_b": places},
        terms={
            "adversarial_a": TermConfig(),
            "adversarial_b": TermConfig(),
            "cycle_a": TermConfig(weight=8.0, warmup=3000),  # first what the critics say: a cipher is soon a loop
            "cycle_b": TermConfig(weight=8.0, warmup=3000),
            "critic_a": TermConfig(),
            "critic_b": TermConfig(),
            "r1_a": TermConfig(weight=1e-3, every=4),
            "r1_b": TermConfig(weight=1e-3, every=4),
        },
        players={
            "generator": PlayerConfig(lr=1e-3, betas=(0.0, 0.99)),
            "discriminator": PlayerConfig(lr=1e-3, betas=(0.0, 0.99)),
        },
        augment=AugmentConfig(mode="off"),
        train=TrainConfig(steps=20_000, batch_size=32, decay_from=0.5, schedule="linear", precision="float32"),
    )  # fmt: skip


def cyclevae_text() -> Config:
    """A cycle VAE on text: `--data A.txt --data-b B.txt`, or `--set data.label=label`, and what an item says in one
    domain is decoded in the other, character by character: the code keeps the places."""
    config, places = cyclevae_image(), {"kind": "places"}
    config.recipe, config.modality = "cyclevae-text", "text"
    config.data = DataConfig(source="builtin:words", vocabulary="character")
    config.model = {"latent_dim": 512, "likelihood": "categorical", "loss": "leastsquares", "penalty": "exact",
                    "encoder": places, "decoder": places, "critic": {**places, "hidden": 128},
                    "probe": None}  # fmt: skip
    # What a random code says is no text yet that the encoder should know. And on what is relaxed, a code that the probe
    # or the consistency holds has not moved to where the critic wants it (docs/text.md).
    for name in ("codes", "consistency", "blind", "probe", "r2"):
        del config.terms[name]
    weights = {"kl": 0.05, "cycle_kl": 0.02}  # of nats an item: with 1 nothing is left in the code
    config.terms |= {name: TermConfig(weight=weight, warmup=500) for name, weight in weights.items()}
    # First what the critic says, and that it weighs more: what is once rebuilt in its own way does not move any more.
    config.terms |= {name: TermConfig(warmup=2000) for name in ("reconstruction", "cycle")}
    config.terms["adversarial"] = TermConfig(weight=600.0)
    config.terms["r1"] = TermConfig(weight=1e-3, every=4)
    config.train = TrainConfig(steps=6000, batch_size=64, decay_from=0.5, schedule="linear", precision="float32")
    config.evaluate.samplers = ["gmm"]
    return config


def cyclevae_sentences() -> Config:
    """A cycle VAE on sentences: `--data A --data-b B`, or `--set data.label=NAME`, and what a sentence says is said
    anew as the other domain does. Recurrent networks in place of places: nothing has to stand where it stood.

    No gradient passes through a written sentence, so there is no critic: a probe keeps the domain out of the code, so
    that the decoder must take it from the label, and what comes of a conversion has to lead back.
    """
    config, text = vae_text(), cyclevae_text()
    config.recipe, config.family = "cyclevae-sentences", "cycle_vae"
    config.data.vocabulary = "bpe"  # of few sentences, too: what is said anew are words, not letters
    config.model |= {"latent_dim": 64, "free_bits": 0.0, "decoder": config.model["decoder"] | {"word_dropout": 0.2}}
    weights = {"reconstruction": 1.0, "kl": 0.03, "cycle": 0.5, "cycle_kl": 0.02, "blind": 10.0, "probe": 1.0}
    warmups = {"kl": 1000, "cycle": 2000, "cycle_kl": 2000, "blind": 500}
    config.terms = {n: TermConfig(weight=weight, warmup=warmups.get(n, 0)) for n, weight in weights.items()}
    config.players["probe"] = text.players["probe"]
    config.evaluate.language_model = False
    return config


RECIPES: dict[str, Callable[[], Config]] = {
    "gan-image": gan_image,
    "gan-points": gan_points,
    "gan-seed": gan_seed,
    "gan-codes": gan_codes,
    "cyclegan-image": cyclegan_image,
    "cyclevae-image": cyclevae_image,
    "vae-image": vae_image,
    "vae-binary": vae_binary,
    "gan-audio": gan_audio,
    "vae-audio": vae_audio,
    "cyclegan-audio": cyclegan_audio,
    "cyclevae-audio": cyclevae_audio,
    "vae-text": vae_text,
    "gan-text": gan_text,
    "cyclegan-text": cyclegan_text,
    "cyclevae-text": cyclevae_text,
    "cyclevae-sentences": cyclevae_sentences,
}
