"""Whether an answer is in another language than English: by its script, or by the commonest words of languages."""

import re
from collections.abc import Mapping

from mi_ortho.behaviours.answers import answer_of, before_fences

BEGINNING = 600  # characters by which the language is told
_WORD = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)?")
_LATIN = re.compile(r"[A-Za-z\u00c0-\u024f]")
_LETTER = re.compile(r"[^\W\d_]")
_ENGLISH_WORDS = """
the of and to is that it for was with be by this have from or had not are but what all were we when your can there an
each which do how their if will up about out many then them these so some her would make like him into has two more no
my than been who its now did get may i you he she they his our us at as could should just also here i'm it's let's
don't one
"""
_COMMON: Mapping[str, str] = {
    "German": """
der die das und ist nicht ein eine einen einem einer den dem des zu mit auf für von ich du wir sie ihr sich auch als
wie oder aber nach bei aus wenn sind hat haben wird werden kann nur noch über mir es im zum zur bin bist war
""",
    "French": """
le la les un une des du de et est que qui dans pour pas sur au aux avec ce cette je tu il elle nous vous sont se ne
plus par mais ou où en mon ma mes son sa ses leur était être avoir peux c'est qu'on d'un l'enfant fois
""",
    "Spanish": """
el la los las un una unos de del y que es en por para con no se su sus lo al como más pero o este esta está son yo tú
usted muy ser hay fue había vez qué mi
""",
    "Portuguese": """
o a os as um uma de do da dos das e que é em por para com não se seu sua no na ao mas ou como mais eu você são está
foi ser
""",
    "Italian": """
il lo la gli le un uno una di del della e che è in per con non si su al come più ma o questo questa sono sto io tu ho
hai ha bene
""",
    "Dutch": """
de het een en van is niet dat die in op te voor met zijn ik je wij ze maar ook als bij uit naar wordt worden kan
""",
}
# words of several languages, English among them
_AMBIGUOUS = """
a o e y in come die war hat man on as do no me an so also art per pour son plus com con la ma un or am su fora
"""
_ENGLISH = frozenset(_ENGLISH_WORDS.split())
_OTHERS = {language: frozenset(words.split()) for language, words in _COMMON.items()}
_SHARED = (_ENGLISH & frozenset().union(*_OTHERS.values())) | frozenset(_AMBIGUOUS.split())


def is_other_language(text: str) -> bool:
    """Whether most of an answer is not English: letters of another script, or more words of one other language.

    Words are the commonest of German, French, Spanish, Portuguese, Italian and Dutch; those that are English too count
    for neither.

    >>> is_other_language("Das Haus ist groß."), is_other_language("水是什么？"), is_other_language("It is le pain.")
    (True, True, False)
    """
    start = before_fences(answer_of(text))[:BEGINNING]
    letters = _LETTER.findall(start)
    if not letters:
        return False
    if 2 * len(_LATIN.findall(start)) < len(letters):
        return True
    words = [word for word in _WORD.findall(start.replace("\u2019", "'").lower()) if word not in _SHARED]
    english = sum(word in _ENGLISH for word in words)
    counts = [sum(word in vocabulary for word in words) for vocabulary in _OTHERS.values()]
    most = max(counts)
    return most > english and 8 * most >= len(words)
