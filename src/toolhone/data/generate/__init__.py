"""New rows: phrasings, slots and the calls that they should get, from a specification."""

from toolhone.data.generate.generator import FineTuneDataGenerator

__all__ = ["FineTuneDataGenerator"]
