"""How good texts are: the metrics of the paper's experiments as plain functions, and the protocols that combine them.

Each takes a list of predictions and, for each of them, a list of references, and returns a number.
"""

from .bleu import bleu as bleu
from .bleu import chrf as chrf
from .coco import cider as cider
from .coco import rouge_l as rouge_l
from .java import meteor as meteor
from .named import FUNCTIONS as FUNCTIONS
from .nist import nist as nist
from .protocols import PROTOCOLS as PROTOCOLS
from .protocols import Report as Report
from .protocols import further as further
from .protocols import lacking as lacking
from .protocols import score as score
from .protocols import signatures as signatures
from .summaries import rouge as rouge
from .ter import ter as ter
from .texts import Unavailable as Unavailable
