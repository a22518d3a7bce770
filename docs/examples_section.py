"""Read our ``Example:`` as Google's ``Examples:``, so that doctests are shown as code."""

from typing import Any

from griffe import Extension, Object

__all__ = ["ExamplesSection"]


class ExamplesSection(Extension):
    """Renames the section before it is parsed."""

    def on_object(self, *, obj: Object, **_: Any) -> None:
        """Rename the section of one docstring."""
        if obj.docstring is not None:
            obj.docstring.value = obj.docstring.value.replace("\nExample:\n", "\nExamples:\n")
