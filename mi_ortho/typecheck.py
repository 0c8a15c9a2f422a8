"""The runtime type checker of every public function: beartype, with int accepted where float is asked (PEP 484).

Its messages are kept short: a wrong argument is named in a line or two, without its contents.
"""

from beartype import BeartypeConf, BeartypeViolationVerbosity, beartype

check = beartype(conf=BeartypeConf(is_pep484_tower=True, violation_verbosity=BeartypeViolationVerbosity.MINIMAL))
