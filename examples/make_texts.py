"""Write texts.txt, the small Russian corpus that the examples train on.

A language model cannot learn Russian from a few hundred sentences, and a larger corpus would bring its own
licence. So texts.txt is the hand-written natural.txt plus sentences drawn from the small grammar below. The
grammar has a few hundred word forms and can make far more sentences than are drawn. A model that has learned
how the words combine is right on held-out sentences; a model that has only memorised lines is not.

Run `python examples/make_texts.py` to rewrite texts.txt next to this script.
"""

from pathlib import Path
from random import Random
from types import SimpleNamespace

GENERATED = 7500
MIN_LENGTH, MAX_LENGTH = 4, 59

# Infinitive, past (he, she, they), six persons (present if imperfective, future if perfective), imperative.
VERB_TABLE = """
читать читал читала читали читаю читаешь читает читаем читаете читают читай
писать писал писала писали пишу пишешь пишет пишем пишете пишут пиши
варить варил варила варили варю варишь варит варим варите варят вари
мыть мыл мыла мыли мою моешь моет моем моете моют мой
чинить чинил чинила чинили чиню чинишь чинит чиним чините чинят чини
рисовать рисовал рисовала рисовали рисую рисуешь рисует рисуем рисуете рисуют рисуй
смотреть смотрел смотрела смотрели смотрю смотришь смотрит смотрим смотрите смотрят смотри
слушать слушал слушала слушали слушаю слушаешь слушает слушаем слушаете слушают слушай
искать искал искала искали ищу ищешь ищет ищем ищете ищут ищи
найти нашёл нашла нашли найду найдёшь найдёт найдём найдёте найдут найди
покупать покупал покупала покупали покупаю покупаешь покупает покупаем покупаете покупают покупай
купить купил купила купили куплю купишь купит купим купите купят купи
встречать встречал встречала встречали встречаю встречаешь встречает встречаем встречаете встречают встречай
встретить встретил встретила встретили встречу встретишь встретит встретим встретите встретят встреть
"""
VERBS = {forms[0]: forms for forms in map(str.split, VERB_TABLE.strip().splitlines())}
PREFIXES = "про-читать на-писать с-варить вы-мыть по-чинить на-рисовать по-смотреть по-слушать"
for pair in PREFIXES.split():
    prefix, verb = pair.split("-")
    VERBS[prefix + verb] = [prefix + form for form in VERBS[verb]]

# A verb's two aspects, then the objects and the places that make sense with it.
USUAL = """\
читать прочитать: книгу|газету|журнал|письмо|рассказ|статью|новую книгу: в парке|в поезде|на даче|в саду|дома
писать написать: письмо|рассказ|статью|открытку|длинное письмо: в поезде|на даче|в саду|на кухне|дома
варить сварить: суп|кашу|картошку|кофе|компот|вкусный суп|вкусную кашу: на кухне|на даче|дома
мыть вымыть: посуду|окно|пол|чашки|грязную посуду|большое окно: на кухне|на даче
мыть вымыть: машину|велосипед|старую машину|грязный велосипед: во дворе|на даче|в гараже
чинить починить: велосипед|машину|старый велосипед|старую машину: во дворе|на даче|в гараже
чинить починить: кран|часы|замок|лампу|старые часы|старую лампу: на кухне|на даче|в школе|дома
рисовать нарисовать: дом|дерево|кошку|собаку|цветы|портрет|старый дом: в парке|во дворе|в школе|в саду
смотреть посмотреть: фильм|матч|концерт|фотографии|новый фильм|старые фотографии: дома|на даче|на кухне
слушать послушать: музыку|радио|песню|лекцию|новую песню|тихую музыку: дома|в машине|на даче
""".splitlines()
# Nobody promises to find the keys on Friday.
UNPLANNED = """\
искать найти: ключи|очки|телефон|часы|фотографии|новые очки|старые часы: на кухне|в машине|в саду|дома
искать найти: кошку|собаку|чёрную кошку|рыжую собаку: в парке|во дворе|в саду|на даче
""".splitlines()
# Nobody buys bread for a whole evening.
BRIEF = """\
покупать купить: хлеб|молоко|сыр|рыбу|цветы|яблоки|свежий хлеб|свежую рыбу: на рынке|в магазине
покупать купить: билеты|книгу|газету|журнал|открытку|новую книгу: на вокзале|в центре
покупать купить: велосипед|телефон|часы|лампу|диван|новый телефон|новый велосипед: в центре|в магазине
встречать встретить: гостей|друга|тётю|туристов|старого друга: на вокзале|в аэропорту|в парке|у метро
""".splitlines()

# A subject with its columns of VERB_TABLE: one for the past, one for the present and the future.
HE = "он|папа|дедушка|Иван|Олег|дядя|сосед|старый учитель|молодой врач"
SHE = "она|мама|бабушка|Анна|Марина|соседка|моя подруга"
THEY = "они|родители|наши друзья|студенты"
THIRD = [(who, 1, 6) for who in HE.split("|")] + [(who, 2, 6) for who in SHE.split("|")]
THIRD += [(who, 3, 9) for who in THEY.split("|")]
# "я" and "ты" come twice: in the past tense the verb shows whether a man or a woman is meant.
FIRST = [("я", 1, 4), ("я", 2, 4), ("мы", 3, 7), ("мы", 3, 7)]
SECOND = [("ты", 1, 5), ("ты", 2, 5), ("вы", 3, 8), ("вы", 3, 8)]
TOLD = [*THIRD, *FIRST, *FIRST, ("мой брат", 1, 6), ("моя сестра", 2, 6)]
ASKED = [*THIRD, *SECOND, *SECOND, ("твой брат", 1, 6), ("твоя сестра", 2, 6), ("твои друзья", 3, 9)]

WORDS = {
    "past": "вчера|позавчера|сегодня|утром|вечером|в пятницу|в субботу|недавно",
    "future": "завтра|послезавтра|сегодня|утром|вечером|в пятницу|в субботу",
    "now": "сейчас|опять|снова",
    "long": "весь вечер|всё утро|долго",
    "event": "пришли гости|начался дождь|стало темно|зазвонил телефон",
    "dative": "мне|тебе|нам|вам|ему|ей|им|маме|папе|бабушке|Ивану|Марине|родителям|моему брату|моей сестре",
    "need": "нужно|надо|придётся",
    "te": "|те",  # the plural or polite ending of an imperative
}
LASTING, PLANNED, ANY = USUAL + UNPLANNED, USUAL + BRIEF, USUAL + UNPLANNED + BRIEF
# Weight, subjects, verbs, sentence; a and b are two clauses, c has the subject of a and the verb of b.
PATTERNS = [
    (6, TOLD, ANY, "{past} {a.who} {a.did} {a.what} {a.where}."),
    (6, TOLD, ANY, "{a.who} {past} {a.did} {a.what}."),
    (5, TOLD, LASTING, "{a.who} {long} {a.was_doing} {a.what} {a.where}."),
    (4, TOLD, LASTING, "когда {event}, {a.who} {a.was_doing} {a.what}."),
    (5, TOLD, ANY, "{a.who} {now} {a.does} {a.what} {a.where}."),
    (4, TOLD, ANY, "{a.where} {a.who} {a.does} {a.what}."),
    (6, TOLD, PLANNED, "{future} {a.who} {a.will} {a.what} {a.where}."),
    (3, TOLD, PLANNED, "{a.who} обязательно {a.will} {a.what} {future}."),
    (5, ASKED, ANY, "{a.who} уже {a.did} {a.what}?"),
    (6, SECOND, ANY, "{a.who} {now} {a.does} {a.what}?"),
    (6, SECOND, PLANNED, "{future} {a.who} {a.will} {a.what}?"),
    (4, ASKED, PLANNED, "когда {a.who} {a.will} {a.what}?"),
    (3, ASKED, ANY, "почему {a.who} не {a.did} {a.what}?"),
    (1, ASKED, UNPLANNED + BRIEF, "где {a.who} {a.did} {a.what}?"),
    (4, TOLD, ANY, "{a.who} ещё не {a.did} {a.what}."),
    (3, TOLD, ANY, "{a.who} так и не {a.did} {a.what} {a.where}."),
    (4, TOLD, PLANNED, "{dative} {need} {a.do} {a.what} {future}."),
    (2, TOLD, ANY, "{dative} {need} {a.do} {a.what}."),
    (3, TOLD, PLANNED, "{dative} не нужно {a.doing} {a.what} {future}."),
    (2, TOLD, PLANNED, "не забудь{te} {a.do} {a.what} {future}!"),
    (2, TOLD, ANY, "{a.order}{te}, пожалуйста, {a.what}."),
    (5, TOLD, PLANNED, "{a.order}{te} {a.what} {future}, пожалуйста."),
    (2, TOLD, PLANNED, "давай{te} {a.lets} {a.what} {future}!"),
    (6, TOLD + SECOND * 2, LASTING, "{a.who} {a.was_doing} {a.what}, а {b.who} {b.was_doing} {b.what}."),
    (5, TOLD + SECOND * 2, ANY, "{a.who} {a.does} {a.what}, а {b.who} {b.does} {b.what}."),
    (4, TOLD, PLANNED, "{future} {a.who} {a.will} {a.what}, а {b.who} {b.will} {b.what}."),
    (5, TOLD, ANY, "{past} {a.who} {a.did} {a.what} и {c.did} {c.what}."),
]


def clause(rng: Random, subject: tuple[str, int, int], frame: str) -> SimpleNamespace:
    who, past, person = subject
    aspects, objects, places = frame.split(": ")
    imperfective, perfective = (VERBS[verb] for verb in aspects.split())
    return SimpleNamespace(
        who=who, what=rng.choice(objects.split("|")), where=rng.choice(places.split("|")),
        doing=imperfective[0], was_doing=imperfective[past], does=imperfective[person],
        do=perfective[0], did=perfective[past], will=perfective[person],
        lets=perfective[7], order=perfective[10],
    )  # fmt: skip


def sentence(rng: Random) -> str:
    _, subjects, frames, pattern = rng.choices(PATTERNS, [weight for weight, *_ in PATTERNS])[0]
    # The two clauses must differ: not "я варил суп, а я варил суп", nor "я варил суп, а мы мыли пол".
    while True:
        subject, other = rng.choices(subjects, k=2)
        frame, second = rng.choices(frames, k=2)
        a, b, c = clause(rng, subject, frame), clause(rng, other, second), clause(rng, subject, second)
        apart = a.who != b.who and {a.who, b.who} != {"я", "мы"}
        if apart and a.do != b.do and a.what not in (b.what, c.what):
            break
    words = {name: rng.choice(choices.split("|")) for name, choices in WORDS.items()}
    text = pattern.format(a=a, b=b, c=c, **words)
    return text[0].upper() + text[1:]


def make_texts(natural: list[str], seed: int = 0) -> list[str]:
    """The lines of natural, then GENERATED sentences, all different; the same for the same seed."""
    rng = Random(seed)
    texts = dict.fromkeys(natural)  # a dict for its order
    while len(texts) < len(natural) + GENERATED:
        text = sentence(rng)
        if MIN_LENGTH <= len(text) <= MAX_LENGTH:
            texts[text] = None
    return list(texts)


def main() -> None:
    here = Path(__file__).parent
    natural = (here / "natural.txt").read_text(encoding="utf-8").splitlines()
    texts = "".join(f"{text}\n" for text in make_texts(natural))
    (here / "texts.txt").write_text(texts, encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()
