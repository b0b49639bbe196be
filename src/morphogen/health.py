"""What goes wrong in training, said in words with a remedy. Scores are those of a family's `measure`."""

from __future__ import annotations

COLLAPSED = 0.5  # nats: with less the codes say next to nothing about their items


def warnings(scores: dict[str, float]) -> list[str]:
    """Sentences about the held-out scores of a model; none when all is well."""
    if not {"mutual_information", "top_mutual_information"} & scores.keys():
        return []  # no random codes
    carried = min(scores["kl"], scores.get("mutual_information", scores["kl"]))  # of a ladder only the top's is known
    if carried >= COLLAPSED:
        return []
    return [
        f"posterior collapse: the codes carry {carried:.2g} nats about their items (KL {scores['kl']:.2g}, "
        f"{scores.get('active_units', 0):.0f} active units), so the decoder ignores them; lower terms.kl.weight, give "
        "it a warmup or a cycle, or set model.free_bits=0.1."
    ]
