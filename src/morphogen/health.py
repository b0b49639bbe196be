"""What goes wrong in training, said in words with a remedy. Scores are those of a family's `measure`."""

from __future__ import annotations

COLLAPSED = 0.5  # nats: with less the codes say next to nothing about their items


def warnings(scores: dict[str, float]) -> list[str]:
    """Sentences about the held-out scores of a model; none when all is well."""
    if "mutual_information" not in scores or min(scores["kl"], scores["mutual_information"]) >= COLLAPSED:
        return []
    return [
        f"posterior collapse: the codes carry {scores['mutual_information']:.2g} nats about their items (KL "
        f"{scores['kl']:.2g}, {scores.get('active_units', 0):.0f} active units), so the decoder ignores them; lower "
        "terms.kl.weight, give it a warmup or a cycle, or set model.free_bits=0.1."
    ]
