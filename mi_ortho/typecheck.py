"""The runtime type checker of every public function: beartype, with int accepted where float is asked (PEP 484).

Its messages are the short ones: a wrong argument is told in a line or two, not with everything it holds.
"""

from beartype import BeartypeConf, BeartypeViolationVerbosity, beartype

check = beartype(conf=BeartypeConf(is_pep484_tower=True, violation_verbosity=BeartypeViolationVerbosity.MINIMAL))
