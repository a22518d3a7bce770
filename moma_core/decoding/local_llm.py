"""A causal LLM on this machine with its tokenizer: packaged, from a folder, or from the hub.

Only safetensors are read and no code of a checkpoint is run. Knows texts and token ids, not what
they are about.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from moma_core.decoding.packaged import PACKAGED, check_packaged, folder_of
from moma_core.decoding.conversion import quiet
from moma_core.errors import ArtifactError, InvalidInputError, MissingExtraError

__all__ = ["LocalLLM"]

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_SAMPLE = 64  # weights of each tensor that a fingerprint looks at


@dataclass(frozen=True, eq=False)
class LocalLLM:
    """Holds a causal LLM of transformers beside its tokenizer.

    Args:
        name: What it was loaded as.
        model: The LLM, in evaluation mode.
        tokenizer: Its tokenizer.
    """

    name: str
    model: Any = field(repr=False)  # prints every layer
    tokenizer: Any = field(repr=False)

    @classmethod
    def load(
        cls,
        source: str | Path = "smollm2",
        *,
        dtype: str = "auto",
        device: str = "cpu",
    ) -> LocalLLM:
        """Load an LLM for decisions.

        Args:
            source: A packaged LLM's short name, a folder, or a hub id such as ``"org/llm"``.
            dtype: ``"auto"`` as it was saved (packaged: bfloat16), or ``"float32"``.
            device: A device of torch, e.g. ``"cuda"``.

        Raises:
            ArtifactError: It is not installed, damaged, no causal LLM, or cannot be reached.
            InvalidInputError: ``source`` is no name, folder or hub id; no such dtype.
            MissingExtraError: The ``[llm]`` extra is not installed.
        """
        place = _place(source)
        try:
            import torch
            from transformers import AutoModelForCausalLM, AutoTokenizer

            from moma_core.decoding.shared_attention import let_attend_apart
        except ImportError as error:
            raise MissingExtraError(
                f'a local LLM needs {error.name}. Type: pip install "moma-router[llm]"'
            ) from error
        if dtype not in ("auto", "float32", "bfloat16", "float16"):
            raise InvalidInputError(f"dtype is 'auto', 'float32' or 'bfloat16', got {dtype!r}.")
        wanted = dtype if dtype == "auto" else getattr(torch, dtype)
        options: dict[str, Any] = {"trust_remote_code": False}
        try:
            with quiet():
                tokenizer = AutoTokenizer.from_pretrained(place, **options)
                model: Any = AutoModelForCausalLM.from_pretrained(
                    place, dtype=wanted, use_safetensors=True, **options
                )
        except Exception as error:  # a damaged file may raise anything, also a bare Exception
            said = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise ArtifactError(
                f"{str(source)!r} cannot be loaded as a causal LLM with safetensors: "
                f"{said:.200}. Give a folder that save_pretrained "
                "wrote or a hub id, or type: moma llm install smollm2"
            ) from error
        let_attend_apart(model)
        return cls(str(source), model.to(device).eval(), tokenizer)

    @cached_property
    def fingerprint(self) -> str:
        """What scores depend on: shape and a sample of every weight, as 16 hexadecimal digits."""
        digest = hashlib.blake2b(digest_size=8)
        for name, weights in sorted(self.model.state_dict().items()):
            sample = weights.flatten()[:_SAMPLE].float().cpu().numpy()
            digest.update(json.dumps([name, *weights.shape]).encode() + sample.tobytes())
        return digest.hexdigest()

    def prompt(self, text: str) -> list[int]:
        """Return the tokens of a text at the very beginning, with what the LLM expects first."""
        ids: list[int] = self.tokenizer(text)["input_ids"]
        if len(ids) > 1 and ids[-1] == self.tokenizer.eos_token_id:  # some tokenizers close a text
            ids = ids[:-1]
        return ids

    def tokens(self, text: str) -> list[int]:
        """Return the tokens of a text that goes on after another."""
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def chat(self, user: str) -> str:
        """Return a user's turn as the LLM was trained to see it, up to where it answers.

        Marks of turns and ends within the text are left out, so that no user ends a turn. An LLM
        without a chat template sees the text itself.
        """
        before = None
        while before != user:  # what is left may make a mark again
            before = user
            for mark in self.tokenizer.all_special_tokens:
                user = user.replace(mark, "")
        if not getattr(self.tokenizer, "chat_template", None):
            return user
        turns = [{"role": "user", "content": user}]
        text: str = self.tokenizer.apply_chat_template(
            turns, tokenize=False, add_generation_prompt=True
        )
        return text


def _place(source: str | Path) -> str | Path:
    """Return a folder or hub id; packaged LLMs are checked first."""
    if str(source) in PACKAGED:
        folder = folder_of(str(source))
        check_packaged(str(source), folder)
        return folder
    if Path(source).is_dir():
        return Path(source)
    if isinstance(source, Path) or not _HUB_ID.fullmatch(source):
        raise InvalidInputError(
            f"{str(source)!r} is no packaged LLM ({', '.join(PACKAGED)}), no folder and "
            "no hub id such as 'org/llm'. Write LocalLLM.load('smollm2') after typing: moma llm "
            "install smollm2"
        )
    return source
