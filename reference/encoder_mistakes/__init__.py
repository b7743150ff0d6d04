"""The catalogue of known mistakes of a whole encoder: negative controls for its verdicts, and the
vocabulary of its diagnosis.

An encoder is an `EncoderCase`, the right program laid open; a mistake is a function from a case to
the wrong one, in one block, in all of them, in their order or behind the last. Two mistakes in one
program are two functions in a row. A wrong program is again blocks, a spec and places, so that its
outputs have bounds as the right one's have.
"""

# In the order in which an encoder computes, which is that of the catalogue.
from . import norms as norms  # isort: skip
from . import attention as attention  # isort: skip
from . import mlp as mlp  # isort: skip
from . import scales as scales  # isort: skip
from . import positions as positions  # isort: skip
from . import order as order  # isort: skip
from . import end as end  # isort: skip
from .catalogue import ENCODER_CATALOGUE as ENCODER_CATALOGUE
from .catalogue import EncoderMistake as EncoderMistake
