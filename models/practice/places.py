"""Finds the cities in "New York, Paris and Portland, Oregon" (floor 4).

A comma separates cities unless what follows it is a state or country, which belongs to the city before.
It deliberately knows no cities: whether one exists is for the weather service to say.
"""

from __future__ import annotations

import re

_CITY_CHARS_MAX = 80
_CITIES_MAX = 12

# Names that are also cities of their own (New York, Singapore, Luxembourg) are left out on purpose.
_REGIONS = frozenset(
    re.split(
        r",\s+",
        """alabama, alaska, arizona, arkansas, california, colorado, connecticut, delaware, florida, georgia, hawaii,
        idaho, illinois, indiana, iowa, kansas, kentucky, louisiana, maine, maryland, massachusetts, michigan,
        minnesota, mississippi, missouri, montana, nebraska, nevada, new hampshire, new jersey, new mexico,
        north carolina, north dakota, ohio, oklahoma, oregon, pennsylvania, rhode island, south carolina,
        south dakota, tennessee, texas, utah, vermont, virginia, west virginia, wisconsin, wyoming, alberta,
        british columbia, manitoba, nova scotia, ontario, quebec, saskatchewan, new south wales, queensland,
        tasmania, england, scotland, wales, ireland, northern ireland, uk, usa, us, united kingdom, united states,
        america, canada, mexico, brazil, argentina, chile, peru, colombia, venezuela, ecuador, bolivia, uruguay,
        france, germany, spain, italy, portugal, netherlands, the netherlands, belgium, switzerland, austria,
        sweden, norway, denmark, finland, iceland, poland, czechia, czech republic, hungary, romania, bulgaria,
        greece, turkey, ukraine, russia, serbia, croatia, slovenia, slovakia, estonia, latvia, lithuania, china,
        japan, india, south korea, korea, thailand, vietnam, indonesia, malaysia, philippines, taiwan, pakistan,
        bangladesh, sri lanka, nepal, iran, iraq, israel, egypt, morocco, tunisia, algeria, nigeria, kenya,
        ethiopia, ghana, south africa, tanzania, uganda, australia, new zealand, cuba, jamaica, saudi arabia,
        united arab emirates, uae, qatar, jordan, lebanon, d.c, dc""",
    )
)
_INITIALS = re.compile(r"[A-Z]{2}|(?:[A-Z]\.){2,}")  # WA, D.C.
_AND = re.compile(
    r"\s*;\s*|,?\s+(?:and|&|or|vs\.?|versus|plus|as well as|compared (?:to|with)|then)\s+"
    r"(?:also\s+)?(?:(?:in|for)\s+)?",
    re.IGNORECASE,
)
_NO_CITY = re.compile(
    r"(?:the|a|an|my|your|our|his|her|this|that|it|you|me|them|us|i|morning|general|total|short|fact|all)\b",
    re.IGNORECASE,
)


def cities(text: str) -> list[str]:
    """The cities named in a text, in order, each once; at most a dozen."""
    found: dict[str, str] = {}
    for part in _AND.split(text):
        for city in _with_regions(part):
            name = city.strip(' \t\n,;:!?"“”').removeprefix("the city of ")
            name = name if _INITIALS.search(name) else name.rstrip(".")
            if any(letter.isalpha() for letter in name):
                found.setdefault(name.lower(), name[:_CITY_CHARS_MAX])
    return list(found.values())[:_CITIES_MAX]


def looks_like_cities(text: str) -> bool:
    """Whether a text that is no sentence may be a list of cities: short names without digits."""
    names = cities(text)
    return bool(names) and all(
        len(name.split()) <= 4 and not any(c.isdigit() for c in name) and not _NO_CITY.match(name) for name in names
    )


def _with_regions(text: str) -> list[str]:
    cities: list[str] = []
    for piece in (piece.strip() for piece in text.split(",")):
        bare = piece.strip(" .?!").lower()
        if cities and (bare in _REGIONS or _INITIALS.fullmatch(piece.strip(" ?!"))):
            cities[-1] += f", {piece}"
        elif piece:
            cities.append(piece)
    return cities
