"""Looking inside a prefix: what a release holds, how a model attends to it, and what is near it."""

from .comparing import compare as compare
from .masses import attention_mass as attention_mass
from .observing import observe as observe
from .release import read_release as read_release
from .words import nearest_words as nearest_words
