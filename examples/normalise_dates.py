"""Convert dates as people write them to ISO 8601: "Sat, 5 Aug 2006" to "2006-08-05".

A sequence-to-sequence model with attention learns from examples and is tested on days that it has not seen. Takes about
a minute.

    python examples/normalise_dates.py [additive | dot | scaled_dot] [FILE]

The day comes before the month; years of two digits are from 1970 to 2069. FILE, for instance map.png, gets the
attention map of one date (needs matplotlib).
"""

import sys
import tempfile
import time
from datetime import date, timedelta
from pathlib import Path

import numpy as np

from rnnx.data import CharTokenizer, Pairs
from rnnx.models import Seq2Seq
from rnnx.optim import Adam, CosineDecay
from rnnx.training import Checkpoint, Trainer, load_checkpoint, save_checkpoint

SEED, BATCH_SIZE = 0, 64
FIRST, LAST = date(1970, 1, 1), date(2069, 12, 31)
MONTHS = ["January", "February", "March", "April", "May", "June"]
MONTHS += ["July", "August", "September", "October", "November", "December"]
DAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]


def spellings(d: date) -> list[str]:
    """All spellings of a date."""
    day, month, weekday = d.day, MONTHS[d.month - 1], DAYS[d.weekday()]
    suffix = "th" if 10 < day < 20 else {1: "st", 2: "nd", 3: "rd"}.get(day % 10, "th")
    return [
        f"{day} {month} {d.year}",
        f"{month} {day}, {d.year}",
        f"{day}{suffix} of {month} {d.year}",
        f"{weekday[:3]}, {day} {month[:3]} {d.year}",
        f"{weekday}, {month} {day}{suffix}, {d.year}",
        f"{day:02} {month[:3].upper()} {d.year % 100:02}",
        f"{day:02}/{d.month:02}/{d.year % 100:02}",
        f"{day}.{d.month}.{d.year}",
        f"{d.year}/{d.month:02}/{day:02}",
    ]


def written(days: list[date], rng: np.random.Generator, copies: int) -> list[tuple[str, str]]:
    """Pairs of a random spelling and the ISO date, several per day."""
    return [(str(text), d.isoformat()) for d in days for text in rng.choice(spellings(d), copies, replace=False)]


def exact(model: Seq2Seq, pairs: list[tuple[str, str]], source: CharTokenizer, target: CharTokenizer) -> float:
    """Share of dates that are exactly right."""
    answers = model.translate([text for text, _ in pairs], source, target, max_length=12)
    return float(np.mean([answer == iso for answer, (_, iso) in zip(answers, pairs, strict=True)]))


def train(model: Seq2Seq, pairs: Pairs, held_out: Pairs, epochs: int) -> None:
    """Train with Adam and a learning rate that decays to zero; print the held-out loss."""
    steps = epochs * pairs.n_batches(BATCH_SIZE)
    trainer = Trainer(model, Adam(learning_rate=CosineDecay(0.005, steps)), clip_norm=1.0, seed=SEED)
    for progress in trainer.run(pairs, held_out, epochs=epochs, batch_size=BATCH_SIZE):
        if progress.validation_loss is not None:
            losses = f"{progress.loss:.4f} nats per character, held out {progress.validation_loss:.4f}"
            print(f"epoch {progress.epoch}: {losses}", flush=True)


def reloaded(model: Seq2Seq, source: CharTokenizer, target: CharTokenizer) -> Checkpoint:
    """Save model and tokenizers to a file and load them again, as another program would."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "dates.safetensors"
        save_checkpoint(path, Checkpoint(model, source, target_tokenizer=target))
        return load_checkpoint(path)


def main(
    attention: str = "additive",
    picture: str | None = None,
    *,
    n_train: int = 4000,
    n_held_out: int = 1000,
    hidden_size: int = 64,
    epochs: int = 4,
) -> float:
    """Train, test and show examples; return the share of held-out dates that are exactly right."""
    rng = np.random.default_rng(SEED)
    days = [FIRST + timedelta(int(n)) for n in rng.permutation((LAST - FIRST).days + 1)[: n_train + n_held_out]]
    known, unseen = written(days[:n_train], rng, 2), written(days[n_train:], rng, 3)
    source = CharTokenizer().fit([text for text, _ in known])
    target = CharTokenizer(oov_token=None).fit([iso + "\n" for _, iso in known])
    (end,) = target.encode("\n")
    pairs, held_out = (
        Pairs([source.encode(text) for text, _ in some], [target.encode(iso) for _, iso in some], end)
        for some in (known, unseen)
    )
    model = Seq2Seq(
        source.vocab_size, target.vocab_size, hidden_size, cell="gru", attention=attention, end_token=end, rng=SEED
    )
    print(model)
    started = time.perf_counter()
    train(model, pairs, held_out, epochs)
    print(f"{time.perf_counter() - started:.0f} s of training")
    right = exact(model, unseen, source, target)
    print(f"exactly right: {right:.2%} of {len(unseen)} dates on unseen days")
    saved = reloaded(model, source, target)
    for text in spellings(date(1999, 3, 7)):
        print(f"  {text:30} {saved.model.translate([text], saved.tokenizer, saved.target_tokenizer, max_length=12)[0]}")
    if picture:
        from rnnx.plots import attention_map

        text = "Saturday, August 5th, 2006"
        indices, (n,), weights = model.predict(source.encode(text)[None, :], max_length=13)
        attention_map(weights[0, :n], text, target.decode(indices[0, :n])).savefig(picture, bbox_inches="tight")
    return right


if __name__ == "__main__":
    main(*sys.argv[1:])
