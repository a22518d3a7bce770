"""``python -m moma_core.cli``: what ``accelerate launch -m moma_core.cli ...`` starts."""

from moma_core.cli.main import main

__all__ = ["main"]

if __name__ == "__main__":
    main()
