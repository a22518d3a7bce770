"""Fit the scale of abilities that ships in moma_core/packaged/llms (about a minute).

    python benchmarks/fit_abilities.py [--check]

Data from MOMA_DATA (default ../shared/data): scores of 30 LLMs on the train rows of ZeroEval and
MMLU-Pro (Apache-2.0) and on ulab's LLMRouter data (MIT). No row of the data is written anywhere.

An explanatory item response model (De Boeck and Wilson, 2004), fitted in one piece: LLM m is right
on query q with probability sigmoid(a(q) * u_m(subjects of q) - b(q)), log a and b linear in the
query's inputs, u_m a level and deviations by subject, of mean zero over
LLMs, all with normal priors. Subjects are
predicted by a softmax; what the model sees of a train query's subject comes from folds that did
not. --check holds a fifth of the queries out and prints the log loss. Seeded; MOMA_VECTORS as in
benchmarks/llms.py.
"""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from llms import vectors_of
from scipy.optimize import minimize

from moma_core import LLMDataset, RoutingEncoder
from moma_core._numerics import sigmoid
from moma_core.llms.abilities import AbilityScale, Exams, Population, QueryModel
from moma_core.llms.costs import count_tokens
from moma_core.llms.features import QueryFeatures

PACKAGED = Path("moma_core/packaged/llms")
TABLES = ("zeroeval", "mmlu_pro", "ulab")
SAME = {
    "Meta-Llama-3_1-8B-Instruct": "Meta-Llama-3.1-8B-Instruct",
    "Meta-Llama-3_1-70B-Instruct": "Meta-Llama-3.1-70B-Instruct",
    "gemini-1.5-flash-002": "gemini-1.5-flash",
    "gemini-1.5-pro-002": "gemini-1.5-pro",
    "llama-3.1-8b-instruct": "Meta-Llama-3.1-8B-Instruct",
    "mistral-7b-instruct-v0.3": "Mistral-7B-Instruct-v0.2",
}
"""Column -> the same LLM, or its nearest release, under another name: they tie the tables."""

EXAMS = {
    "gsm": ("gsm8k", "math"),
    "gsm8k": ("gsm8k", "math"),
    "math-l5": ("math_level5", "math"),
    "agentverse-mgsm": ("mgsm", "math"),
    "crux": ("cruxeval", "code"),
    "mbpp": ("mbpp", "code"),
    "human_eval": ("human_eval", "code"),
    "natural_qa": ("natural_questions", "knowledge"),
    "trivia_qa": ("trivia_qa", "knowledge"),
    "openbook_qa": ("openbook_qa", "commonsense"),
    "arc_challenge": ("arc_challenge", "commonsense"),
    "commonsense_qa": ("commonsense_qa", "commonsense"),
    "mmlu": ("mmlu", "general"),
    "gpqa": ("gpqa", "science"),
    "agentverse-logicgrid": ("logic_grid", "logic"),
    "commongen": ("commongen", "writing"),
}
"""Task -> name under which its scores are published, subject. MMLU-Pro's are both."""

GROUPS = {
    "math": ("math", "gsm8k", "math_level5", "math_benchmark", "mgsm"),
    "code": ("cruxeval", "mbpp", "human_eval"),
    "knowledge": ("natural_questions", "trivia_qa"),
    "commonsense": ("openbook_qa", "arc_challenge", "commonsense_qa"),
}
"""Subject -> benchmarks of it, where there are several."""

ITEMS, FOLDS = 24, 4
SUBJECT_PENALTY, DIFFICULTY_PENALTY, STEEPNESS_PENALTY = 1.0, 30.0, 300.0
LEVEL_PENALTY, DEVIATION_PENALTY = 0.3, 3.0
EVEN_DIFFICULTY, EVEN_STEEPNESS = 10.0, 100.0
"""On a subject's own difficulty and steepness: with little on the latter it grew to seven, under
which deviations of a few tenths mean anything, and unseen subjects were all easy for everybody."""

WELL_ASKED, OWN_VARIANCE, LOADING_PENALTY, CENTRE_PENALTY = 15.0, 0.1, 1.2, 0.1
"""Evidence from which a subject counts as asked, a first variance of a subject's own, penalties."""

TALK = (
    "hi", "hello", "hey there", "good morning", "good evening!", "hi, how are you?",
    "how's it going?", "say hello", "nice to meet you", "thanks", "thank you!",
    "thanks a lot, that helps", "great", "ok", "okay, got it", "yes", "yes please", "no thanks",
    "sounds good", "perfect", "cool", "sorry", "never mind", "bye", "goodbye", "see you tomorrow",
    "good night", "have a nice day", "are you there?", "what's your name?", "who are you?",
    "can you hear me?", "you're welcome", "well done", "I am back", "just a moment",
    "one second please", "what's up?", "that's funny", "test",
)  # fmt: skip
TALK_WEIGHT = 2
"""Small talk, which no table holds: every LLM is taken to answer it well. Each line counts as two
queries; without it the scale guessed from exams that a greeting wants a dear LLM."""


@dataclass
class Rows:
    """Scored queries of several tables over one list of LLMs.

    ``tokens`` are those of answers, NaN where costs do not tell; ``price`` is USD per million.
    """

    queries: tuple[str, ...]
    vectors: np.ndarray
    scores: np.ndarray
    tokens: np.ndarray
    exam: np.ndarray
    subject: np.ndarray
    table: np.ndarray
    llms: tuple[str, ...]
    price: np.ndarray

    def take(self, mask: np.ndarray) -> Rows:
        """Return some of the rows."""
        texts = tuple(text for text, kept in zip(self.queries, mask, strict=True) if kept)
        columns = {
            name: getattr(self, name)[mask]
            for name in ("vectors", "scores", "tokens", "exam", "subject", "table")
        }
        return Rows(texts, **columns, llms=self.llms, price=self.price)

    def without(self, left_out: tuple[str, ...]) -> Rows:
        """Return the rows without some LLMs, under all of their names."""
        gone = {SAME.get(name, name) for name in left_out}
        kept = [column for column, name in enumerate(self.llms) if name not in gone]
        return Rows(
            self.queries, self.vectors, self.scores[:, kept], self.tokens[:, kept], self.exam,
            self.subject, self.table, tuple(self.llms[column] for column in kept),
            self.price[kept],
        )  # fmt: skip


def exam_of(table: str, task: str) -> tuple[str, str]:
    if table == "mmlu_pro":
        subject = "general" if task == "other" else task
        return subject, subject
    return EXAMS.get(task, ("math_benchmark", "math"))


def read(folder: Path, encoder: RoutingEncoder, splits: dict[str, np.ndarray]) -> Rows:
    """Read all tables; ``splits`` masks the rows of a table, else its train rows are taken."""
    prices: dict[str, dict[str, Any]] = json.loads((folder / "llm_prices.json").read_text())
    parts, paid = [], {}
    for table in TABLES:
        data = LLMDataset.read(folder / f"{table}.parquet")
        mask = splits.get(table, np.array(data.splits) == "train")
        vectors = vectors_of(table, data, encoder)[mask]
        data = data.take(mask)
        for name, price in prices[table].items():
            both = price if isinstance(price, list) else [price, price]
            paid.setdefault(SAME.get(name, name), both)
        parts.append((table, data, vectors, prices[table]))
    llms = tuple(sorted({SAME.get(name, name) for _, data, _, _ in parts for name in data.llms}))
    scores, tokens = [], []
    for table, data, _, price in parts:
        columns = [llms.index(SAME.get(name, name)) for name in data.llms]
        score = np.full((len(data), len(llms)), np.nan)
        written = score.copy()
        score[:, columns] = data.scores
        if table != "ulab":  # its costs are a tier's, whatever was answered
            chars = np.array([len(text) for text in data.queries])[:, None] / 4.0
            both = np.array([price[name] for name in data.llms])
            written[:, columns] = (data.costs * 1e6 - chars * both[:, 0]) / both[:, 1]
        scores.append(score)
        tokens.append(written)
    named = [exam_of(table, task) for table, data, _, _ in parts for task in data.tasks]
    return Rows(
        tuple(text for _, data, _, _ in parts for text in data.queries),
        np.vstack([vectors for _, _, vectors, _ in parts]),
        np.vstack(scores),
        np.vstack(tokens),
        np.array([exam for exam, _ in named]),
        np.array([subject for _, subject in named]),
        np.array([table for table, data, _, _ in parts for _ in data.tasks]),
        llms,
        np.array([(paid[name][0] + 3.0 * paid[name][1]) / 4.0 for name in llms]),
    )


def fit_softmax(inputs: np.ndarray, label: np.ndarray, k: int) -> np.ndarray:
    """Return weights (d + 1, k) of a ridge softmax, the last row the bias."""
    n, d = inputs.shape
    hot = np.eye(k)[label]

    def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
        weights = flat.reshape(d + 1, k)
        shares = softmax(inputs, weights)
        gap = shares - hot
        value = -np.log(shares[np.arange(n), label] + 1e-12).sum()
        value += 0.5 * SUBJECT_PENALTY * (weights[:-1] ** 2).sum()
        slope = np.vstack([inputs.T @ gap + SUBJECT_PENALTY * weights[:-1], gap.sum(axis=0)])
        return float(value), slope.ravel()

    found = minimize(loss, np.zeros((d + 1) * k), jac=True, method="L-BFGS-B",
                     options={"maxiter": 60})  # fmt: skip
    return found.x.reshape(d + 1, k)


def softmax(inputs: np.ndarray, weights: np.ndarray) -> np.ndarray:
    logits = inputs @ weights[:-1] + weights[-1]
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    return shares / shares.sum(axis=1, keepdims=True)


def fit_responses(
    inputs: np.ndarray, shares: np.ndarray, scores: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return abilities (m, k), weights of difficulty (d + k,) and of log steepness (d + k,)."""
    both = np.hstack([inputs, shares])
    k, d, m = shares.shape[1], inputs.shape[1], scores.shape[1]
    seen = ~np.isnan(scores)
    right = np.where(seen, scores, 0.0)
    cut = np.cumsum([m, m * k, d + k])
    penalties = [np.full(m, LEVEL_PENALTY), np.full(m * k, DEVIATION_PENALTY)]
    penalties += [np.r_[np.full(d, DIFFICULTY_PENALTY), np.full(k, EVEN_DIFFICULTY)]]
    penalties += [np.r_[np.full(d, STEEPNESS_PENALTY), np.full(k, EVEN_STEEPNESS)]]
    penalty = np.concatenate(penalties)

    def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
        level, deviation, hard, steep = np.split(flat, cut)
        means = level[:, None] + deviation.reshape(m, k)
        ability = shares @ (means - means.mean(axis=0)).T  # (n, m)
        logs = both @ steep
        slope = np.exp(np.clip(logs, -2.0, 2.0))
        logit = slope[:, None] * ability - (both @ hard)[:, None]
        value = np.where(seen, np.logaddexp(0.0, logit) - right * logit, 0.0).sum()
        gap = np.where(seen, sigmoid(logit) - right, 0.0)
        by_ability = (gap * slope[:, None]).T @ shares  # (m, k)
        inside = (np.abs(logs) < 2.0) * slope
        by_ability -= by_ability.mean(axis=0)
        by_hard = -both.T @ gap.sum(axis=1)
        by_steep = both.T @ ((gap * ability).sum(axis=1) * inside)
        grads = [by_ability.sum(axis=1), by_ability.ravel(), by_hard, by_steep]
        value += 0.5 * float(penalty @ flat**2)
        return float(value), np.concatenate(grads) + penalty * flat

    found = minimize(loss, np.zeros(len(penalty)), jac=True, method="L-BFGS-B",
                     options={"maxiter": 300})  # fmt: skip
    level, deviation, hard, steep = np.split(found.x, cut)
    means = level[:, None] + deviation.reshape(m, k)
    return means - means.mean(axis=0), hard, steep


def fit_length(inputs: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    """Return weights (d + 1,) of the log of an answer's tokens, its bias set by the mean."""
    known = ~np.isnan(tokens).all(axis=1)
    logs = np.log(np.maximum(np.nanmedian(tokens[known], axis=1), 1.0))
    x = inputs[known]
    centre = x.mean(axis=0)
    gram = (x - centre).T @ (x - centre) + 10.0 * np.eye(x.shape[1])
    weights = np.linalg.solve(gram, (x - centre).T @ (logs - logs.mean()))
    plain = x @ weights
    mean = np.nanmean(tokens[known])
    return np.append(weights, np.log(mean) - np.log(np.exp(plain).mean()))


def population_of(
    rows: Rows, means: np.ndarray, shares: np.ndarray, steepness: np.ndarray
) -> Population:
    """Return how abilities are spread over LLMs: a level by price, deviations by subject."""
    weight = np.array([
        (shares[~np.isnan(rows.scores[:, column])] *
         steepness[~np.isnan(rows.scores[:, column]), None] ** 2).sum(axis=0) * 0.15
        for column in range(len(means))
    ])  # fmt: skip
    errors = 1.0 / np.sqrt(weight + DEVIATION_PENALTY)
    sure = weight / (weight + DEVIATION_PENALTY)
    centre = (sure * means).sum(axis=0) / np.maximum(sure.sum(axis=0), 1e-9)
    level = (sure * (means - centre)).sum(axis=1) / sure.sum(axis=1)
    paid = np.log2(rows.price)
    by_price = float(np.polyfit(paid, level, 1)[0])
    rest = level - level.mean() - by_price * (paid - paid.mean())
    deviation = means - centre - level[:, None]
    varies = (sure * deviation**2).sum(axis=0) / np.maximum(sure.sum(axis=0), 1e-9)
    covariance = rest.var(ddof=2) * np.ones((means.shape[1],) * 2) + np.diag(varies + 0.05)
    return Population(centre + level.mean(), covariance, by_price, float(paid.mean()),
                      rows.llms, *by_one_factor(means, weight, errors))  # fmt: skip


def by_one_factor(
    means: np.ndarray, weight: np.ndarray, errors: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return means and errors (m, k), where an LLM was hardly asked told by its other subjects.

    Factor analysis with missing entries (EM): the ability in a subject is its mean plus a loading
    times what is common to the LLM's subjects, plus noise; measured ones have their own error too.
    Without it a subject that was not asked was taken for the LLM's level, whatever the subject.
    """
    noise, asked = 1.0 / np.maximum(weight, 1e-9), (weight > WELL_ASKED).astype(float)
    centre = (asked * means).sum(axis=0) / np.maximum(asked.sum(axis=0), 1e-9)
    loading, own = np.full(len(centre), 0.6), np.full(len(centre), OWN_VARIANCE)
    for _ in range(500):
        spread = own + noise
        firm = asked / spread
        variance = 1.0 / (1.0 + (firm * loading**2).sum(axis=1))
        common = variance * (firm * loading * (means - centre)).sum(axis=1)
        ones, first = firm.sum(axis=0) + CENTRE_PENALTY, firm.T @ common
        second = firm.T @ (common**2 + variance) + LOADING_PENALTY
        level = (firm * means).sum(axis=0) + CENTRE_PENALTY * centre.mean()
        slope = (firm * means).T @ common + LOADING_PENALTY * loading.mean()
        size = ones * second - first**2
        centre, loading = (
            (second * level - first * slope) / size, (ones * slope - first * level) / size
        )  # fmt: skip
        rest = (means - centre - np.outer(common, loading)) ** 2 + np.outer(variance, loading**2)
        parts = asked * ((own / spread) ** 2 * rest + own * noise / spread)
        own = (parts.sum(axis=0) + OWN_VARIANCE) / (asked.sum(axis=0) + 1.0)
    told = centre + np.outer(common, loading)
    unsure = np.sqrt(np.outer(variance, loading**2) + own)
    return np.where(asked > 0, means, told), np.where(asked > 0, errors, unsure)


def exams_of(
    rows: Rows, shares: np.ndarray, steepness: np.ndarray, difficulty: np.ndarray
) -> Exams:
    """Return queries that stand for each benchmark: evenly spread over its difficulties."""
    names = sorted(set(rows.exam))
    chosen, part = [], []
    for place, name in enumerate(names):
        own = np.flatnonzero(rows.exam == name)
        own = own[np.argsort(difficulty[own], kind="stable")]
        spread = np.linspace(0, len(own) - 1, ITEMS).round().astype(int)
        chosen.append(own[spread])
        part += [place] * ITEMS
    parts = {name: (place,) for place, name in enumerate(names)}
    pro = sorted(set(rows.exam[rows.table == "mmlu_pro"]))
    if pro:
        parts["mmlu_pro"] = tuple(names.index(name) for name in pro)
    for subject, members in GROUPS.items():
        parts[subject] = tuple(names.index(name) for name in members if name in names)
    picked = np.concatenate(chosen)
    return Exams(parts, np.array(part, np.int32), shares[picked], steepness[picked],
                 difficulty[picked])  # fmt: skip


def fit_scale(rows: Rows, encoder: RoutingEncoder, seed: int = 0) -> AbilityScale:
    features = QueryFeatures.fit(rows.queries)
    inputs = features.join(rows.queries, rows.vectors).astype(np.float64)
    subjects = tuple(sorted(set(rows.subject.tolist())))
    label = np.searchsorted(subjects, rows.subject)
    folds = np.random.default_rng(seed).permutation(len(inputs)) % FOLDS
    shares = np.empty((len(inputs), len(subjects)))
    for fold in range(FOLDS):
        seen = folds != fold
        shares[~seen] = softmax(inputs[~seen], fit_softmax(inputs[seen], label[seen],
                                                           len(subjects)))  # fmt: skip
    talk = features.join(TALK, encoder.encode(TALK)).astype(np.float64)
    told = softmax(talk, fit_softmax(inputs, label, len(subjects)))
    means, hard, steep = fit_responses(
        np.vstack([inputs, *[talk] * TALK_WEIGHT]),
        np.vstack([shares, *[told] * TALK_WEIGHT]),
        np.vstack([rows.scores, np.ones((TALK_WEIGHT * len(talk), len(rows.llms)))]),
    )
    both = np.hstack([inputs, shares])
    steepness, difficulty = np.exp(np.clip(both @ steep, -2.0, 2.0)), both @ hard
    model = QueryModel(
        fit_softmax(inputs, label, len(subjects)), hard, steep, fit_length(inputs, rows.tokens)
    )
    return AbilityScale(
        subjects,
        model,
        exams_of(rows, shares, steepness, difficulty),
        population_of(rows, means, shares, steepness),
        features,
        encoder.fingerprint,
        {"seed": seed, "queries": len(inputs), "tables": sorted(set(rows.table.tolist())),
         "sources": "ZeroEval, MMLU-Pro (Apache-2.0), LLMRouter of ulab (MIT)",
         "command": "python benchmarks/fit_abilities.py"},
    )  # fmt: skip


def log_loss(scale: AbilityScale, rows: Rows) -> dict[str, float]:
    """Return the mean log loss by table of the LLMs that were fitted, on other queries."""
    inputs = scale.features.join(rows.queries, rows.vectors)
    none = np.zeros((len(rows.llms), len(scale.subjects), len(scale.subjects)))
    quality, _ = scale.predict(inputs, scale.population.means, none)
    known, held = ~np.isnan(rows.scores), np.clip(quality, 1e-6, 1 - 1e-6)
    loss = -(rows.scores * np.log(held) + (1 - rows.scores) * np.log(1 - held))
    return {
        table: round(float(loss[known & (rows.table == table)[:, None]].mean()), 4)
        for table in TABLES
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    folder = Path(os.environ.get("MOMA_DATA", "../shared/data"))
    encoder = RoutingEncoder()
    rows = read(folder, encoder, {})
    if options.check:
        held = np.random.default_rng(1).random(len(rows.queries)) < 0.2
        scale = fit_scale(rows.take(~held), encoder)
        print(json.dumps(log_loss(scale, rows.take(held))))
        return
    scale = fit_scale(rows, encoder)
    scale.save(PACKAGED)
    typical = count_tokens(" ".join(rows.queries)) / len(rows.queries)
    print(f"{len(rows.queries):,} queries of {typical:.0f} tokens, {len(rows.llms)} LLMs")
    print(f"doubling the price brings {scale.population.by_price:.3f} of ability")
    print({file.name: file.stat().st_size for file in PACKAGED.glob("abilities*")})


if __name__ == "__main__":
    main()
