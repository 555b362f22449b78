"""Tells the weather of a place: which place, measured when, and never a made-up number.  (floor 4)

Open-Meteo in two steps: the name becomes a place, the place's coordinates a forecast. Where a
name fits several places the most populous one is answered, and it is said which, and which
others there are. A value that is missing, absurd or in a unit we don't know is left out as
"unknown". Without a believable temperature the whole answer counts as broken, and so it does when
its parts contradict each other, or it is about another place than the one asked for. Old values are
told with their age, and the program itself says that they are old.

When the service cannot be reached the last good answer stands in, with its age; else the tool
says plainly that it knows nothing. What this does not do: know places by itself, so it
cannot tell when a name is given the wrong one; which one it was is always said.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

from errors import AgentError
from fault_injection import Lie
from faults import FaultPlan
from flow import Flow, HttpRequest
from guard import Guards
from toolbox.answers import address, asked_for, asking, broken, number, words
from toolbox.cache import LastGood, age_in_words
from toolbox.lies import WEATHER, on_the_wire
from toolbox.providers import Provider, Providers, old_answer_notice, unavailable
from tools import CallContext, Tool, ToolOutput

CITY_CHARS_MAX = 200
STALE_S = 3 * 3600.0
"""Open-Meteo gives a value every 15 minutes; one older than this is told to be old."""

AHEAD_S = 3600.0
"""A value measured later than this from now was not measured: one of the two clocks is wrong."""

FAR_DEGREES = 1.5
"""How far a forecast may be from its place, in degrees of latitude. It is for a cell of the model's grid, or
for a neighbour that lies on land as high; the coarsest grid behind it has half a degree (JMA GSM)."""

_CURRENT = (
    "temperature_2m,apparent_temperature,relative_humidity_2m,precipitation,weather_code,wind_speed_10m,"
    "wind_direction_10m,is_day"
)
_DAILY = "weather_code,temperature_2m_max,temperature_2m_min,precipitation_probability_max,sunrise,sunset"

# The units the service may answer in, and what can be on Earth (records, generously).
_BELIEVABLE: dict[str, dict[str, tuple[float, float]]] = {
    "temperature": {"°C": (-95, 62), "°F": (-140, 144)},
    "felt": {"°C": (-130, 85), "°F": (-200, 185)},
    "humidity": {"%": (0, 100)},
    "precipitation": {"mm": (0, 500), "inch": (0, 20)},
    "wind": {"km/h": (0, 450), "m/s": (0, 125), "mp/h": (0, 280), "kn": (0, 245)},
    "direction": {"°": (0, 360)},
    "chance": {"%": (0, 100)},
}

# How far the value of now may lie outside the range of its day: they come from different steps of the model.
_OUTSIDE_DAY = {"°C": 10.0, "°F": 18.0}

# WMO code table 4677, the part that Open-Meteo uses.
_SKY = {
    0: "clear sky", 1: "mainly clear", 2: "partly cloudy", 3: "overcast", 45: "fog", 48: "freezing fog",
    51: "light drizzle", 53: "drizzle", 55: "dense drizzle", 56: "light freezing drizzle",
    57: "freezing drizzle", 61: "light rain", 63: "rain", 65: "heavy rain", 66: "light freezing rain",
    67: "freezing rain", 71: "light snow", 73: "snow", 75: "heavy snow", 77: "snow grains",
    80: "light rain showers", 81: "rain showers", 82: "violent rain showers", 85: "light snow showers",
    86: "heavy snow showers", 95: "thunderstorm", 96: "thunderstorm with hail",
    99: "thunderstorm with heavy hail",
}  # fmt: skip
_WINDS = ("north", "northeast", "east", "southeast", "south", "southwest", "west", "northwest")


@dataclass(frozen=True, slots=True)
class Weather:
    """What was found: the words, and when it was measured (seconds since the epoch), where known."""

    text: str
    is_found: bool = True
    measured_s: float | None = None


@dataclass(frozen=True, slots=True)
class _Place:
    """One place that the name may mean."""

    label: str
    latitude: float
    longitude: float
    population: float


def weather_tool(
    geocoding_url: str,
    forecast_url: str,
    guards: Guards,
    plan: FaultPlan,
    cache: LastGood[Weather],
    now: Callable[[], float],
    wall: Callable[[], float] = time.time,
) -> Tool:
    """The tool `get_weather(city)`: optional, reads.

    Args:
        geocoding_url, forecast_url: Open-Meteo's, or those of something that speaks like it.
        guards, plan: under the name `get_weather.open_meteo`.
        cache: the last good answers.
        now, wall: the monotonic clock and the one that observations are dated with, in seconds.
    """
    lies: dict[str, Lie[Weather]] = {kind: on_the_wire(bend) for kind, bend in WEATHER.items()}
    open_meteo = _OpenMeteo(_endpoint(geocoding_url, "/v1/search"), _endpoint(forecast_url, "/v1/forecast"), wall)
    providers = Providers(
        "get_weather",
        [Provider("open_meteo", open_meteo.asking, lies)],
        guards,
        plan,
        cache,
        lambda weather: weather.is_found and not _age(weather, wall())[1],
        now,
    )

    def run(context: CallContext, given: Mapping[str, Any]) -> Flow[ToolOutput]:
        city = asked_for(given["city"], "city", CITY_CHARS_MAX)
        try:
            answered = yield from providers.asking(city, context)
        except AgentError as error:
            return unavailable("get_weather", error)
        age, doubt = _age(answered.value, wall())
        lines = [answered.value.text, age]
        if answered.age_s is not None:
            lines.insert(0, f"No live answer now ({answered.why}). This is from {age_in_words(answered.age_s)} ago:")
        notice = old_answer_notice("get_weather", answered) or doubt
        return ToolOutput("\n".join(filter(None, lines)), source=answered.source, degraded=bool(notice), notice=notice)

    return Tool(
        "get_weather",
        "Current weather and the forecast of three days for a place. Add a region or country where a name is common.",
        {
            "type": "object",
            "properties": {"city": {"type": "string", "description": 'A place, e.g. "Berlin" or "Paris, Texas".'}},
            "required": ["city"],
            "additionalProperties": False,
        },
        run,
        lies=tuple(lies),
    )


def _endpoint(url: str, path: str) -> str:
    """The setting may name the service or its very path."""
    return url if urlsplit(url).path.strip("/") else address(url, path)


@dataclass(frozen=True, slots=True)
class _OpenMeteo:
    """Asks the two services of Open-Meteo."""

    geocoding_url: str
    forecast_url: str
    wall: Callable[[], float]

    def asking(self, city: str) -> Flow[Weather]:
        """One attempt: the place, then its weather. AgentError when an answer is not believable."""
        named: dict[str, str | int] = {"name": city, "count": 5, "language": "en", "format": "json"}
        places = places_in((yield from self._fetching(self.geocoding_url, named)))
        if not places:
            return Weather(f"The geocoding service of Open-Meteo knows no place called {city!r}.", is_found=False)
        place = max(places, key=lambda each: each.population)  # the first of equals, which the service ranks best
        where: dict[str, str | int] = {
            "latitude": f"{place.latitude:.4f}", "longitude": f"{place.longitude:.4f}", "current": _CURRENT,
            "daily": _DAILY, "timezone": "auto", "forecast_days": 3,
        }  # fmt: skip
        found = yield from self._fetching(self.forecast_url, where)
        _check_place(found, place)
        others = [each.label for each in places if each.label != place.label]
        return weather_in(found, place.label, list(dict.fromkeys(others)))

    def _fetching(self, url: str, parameters: Mapping[str, str | int]) -> Flow[Mapping[str, Any]]:
        return asking(HttpRequest("GET", address(url, "", parameters)), self.wall)


# --- reading what the service says -------------------------------------------------------------------------


def places_in(found: Mapping[str, Any]) -> list[_Place]:
    """The places of a geocoding answer; none when it has no `results`."""
    results = found.get("results")
    if results is None and set(found) <= {"generationtime_ms", "results"}:
        return []
    if not isinstance(results, list):
        raise broken("answered something that is not a list of places")
    places = [place for place in map(_place, results) if place is not None]
    if results and not places:
        raise broken("answered places without a name or a position")
    return places


def _place(result: Any) -> _Place | None:
    if not isinstance(result, dict):
        return None
    name = words(result.get("name"), 80)
    latitude, longitude = number(result.get("latitude"), -90, 90), number(result.get("longitude"), -180, 180)
    if not name or latitude is None or longitude is None:
        return None
    parts = [name, words(result.get("admin1"), 80), words(result.get("country"), 80)]
    label = ", ".join(dict.fromkeys(filter(None, parts)))
    return _Place(label, latitude, longitude, number(result.get("population"), 0, 1e9) or 0.0)


def weather_in(found: Mapping[str, Any], label: str, others: Sequence[str]) -> Weather:
    """A forecast in words. AgentError (`protocol`) when it has no believable temperature."""
    current, units = _part(found, "current"), _part(found, "current_units")
    now, daily = _Values(current, units), _Values(_part(found, "daily"), _part(found, "daily_units"))
    temperature, value = now.shown("temperature_2m", "temperature"), now.value("temperature_2m", "temperature")
    if value is None:
        raise broken("answered without a believable temperature")
    _check_day(now, value, daily, daily.values.get("time"))
    felt, wind = now.shown("apparent_temperature", "felt"), now.shown("wind_speed_10m", "wind")
    lines = [
        f"Weather in {label} (Open-Meteo):",
        f"Now: {temperature}{f' (feels like {felt})' if felt else ''}, {_sky(current.get('weather_code'))},"
        f" humidity {now.shown('relative_humidity_2m', 'humidity') or 'unknown'},"
        f" wind {wind or 'unknown'}{_from(now.value('wind_direction_10m', 'direction')) if wind else ''},"
        f" precipitation {now.shown('precipitation', 'precipitation') or 'unknown'}.",
        *_days(daily),
    ]
    measured, measured_s = _time(found, current)
    lines.append(f"Measured {measured}." if measured else "When this was measured is unknown.")
    if others:
        named = "; ".join(others[:4])
        lines.append(f"The name also fits: {named}. Ask with the region or country to choose one of them.")
    return Weather("\n".join(lines), measured_s=measured_s)


def _check_place(found: Mapping[str, Any], place: _Place) -> None:
    """AgentError when a forecast says that it is for somewhere else. One that doesn't say cannot be checked."""
    latitude, longitude = number(found.get("latitude"), -90, 90), number(found.get("longitude"), -180, 180)
    if latitude is None or longitude is None:
        return
    east = abs(longitude - place.longitude)
    east = min(east, 360 - east) * math.cos(math.radians(place.latitude))  # meridians meet at the poles
    if math.hypot(latitude - place.latitude, east) > FAR_DEGREES:
        raise broken(f"answered for somewhere else than {place.label}")


def _check_day(now: _Values, temperature: float, daily: _Values, dates: Any) -> None:
    """AgentError when it cannot be that warm or cold now and within this day's own range."""
    said = now.values.get("time")
    day = said[:10] if isinstance(said, str) else None
    if not isinstance(dates, list) or day not in dates:
        return
    at, unit = dates.index(day), now.units["temperature_2m"]
    low, high = (daily.value(f"temperature_2m_{end}", "temperature", at) for end in ("min", "max"))
    units = {daily.units.get(f"temperature_2m_{end}") for end in ("min", "max")}
    if low is None or high is None or low > high or units != {unit}:
        return
    if not low - _OUTSIDE_DAY[unit] <= temperature <= high + _OUTSIDE_DAY[unit]:
        # Without the number: what nobody should believe must not stand where somebody may read it.
        raise broken("answered a temperature far outside the range of its own day")


def _part(found: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    part = found.get(name)
    return part if isinstance(part, dict) else {}


@dataclass(frozen=True, slots=True)
class _Values:
    """Numbers with the units they came in."""

    values: Mapping[str, Any]
    units: Mapping[str, Any]

    def value(self, name: str, what: str, at: int | None = None) -> float | None:
        """The number, or element `at` of a list of them; None when it is not believable in its unit."""
        value = self.values.get(name)
        if at is not None:
            value = value[at] if isinstance(value, list) and at < len(value) else None
        unit = self.units.get(name)
        limits = _BELIEVABLE[what].get(unit) if isinstance(unit, str) else None
        return number(value, *limits) if limits else None

    def shown(self, name: str, what: str, at: int | None = None) -> str | None:
        """The number with its unit; None when it is not believable."""
        value = self.value(name, what, at)
        return None if value is None else f"{value:g} {self.units[name]}"


def _sky(code: Any) -> str:
    known = number(code, 0, 99)
    return _SKY.get(int(known), "conditions unknown") if known is not None else "conditions unknown"


def _from(degrees: float | None) -> str:
    return "" if degrees is None else f" from the {_WINDS[round(degrees / 45) % 8]}"


def _days(values: _Values) -> list[str]:
    daily, units = values.values, values.units
    dates, lines = daily.get("time"), []
    for at, date in enumerate(dates[:3] if isinstance(dates, list) else []):
        low, high = (values.value(f"temperature_2m_{end}", "temperature", at) for end in ("min", "max"))
        if low is None or high is None or low > high or not _date(date):
            continue
        codes = daily.get("weather_code")
        sky = _sky(codes[at] if isinstance(codes, list) and at < len(codes) else None)
        chance = values.shown("precipitation_probability_max", "chance", at)
        unit = units.get("temperature_2m_max")
        rain = f", {chance} chance of precipitation" if chance else ""
        lines.append(f"{_date(date)}: {low:g} to {high:g} {unit}, {sky}{rain}.")
    return lines


def _date(value: Any) -> str:
    try:
        return datetime.fromisoformat(value).date().isoformat() if isinstance(value, str) else ""
    except ValueError:
        return ""


def _time(found: Mapping[str, Any], current: Mapping[str, Any]) -> tuple[str, float | None]:
    """When it was measured: in words of the place's own time, and in seconds since the epoch."""
    said, offset_s = current.get("time"), number(found.get("utc_offset_seconds"), -50_400, 50_400)
    try:
        local = datetime.fromisoformat(said) if isinstance(said, str) else None
    except ValueError:
        local = None
    if local is None or local.tzinfo is not None or not 1900 < local.year < 2200:
        return "", None
    zone = words(found.get("timezone"), 40)
    measured = f"{local:%Y-%m-%d %H:%M} local time{f' ({zone})' if zone else ''}"
    return measured, None if offset_s is None else local.replace(tzinfo=UTC).timestamp() - offset_s


def _age(weather: Weather, wall_s: float) -> tuple[str, str]:
    """How old the values are, for the model; and what the program itself says when that is not as it should be."""
    if weather.measured_s is None:
        return "", ""
    age_s = wall_s - weather.measured_s
    if age_s < -AHEAD_S:
        told = f"dated {age_in_words(-age_s)} ahead: the service's clock or this machine's is wrong"
        return f"These values are {told}. Say so.", f"get_weather answered with values {told}"
    if age_s <= STALE_S:
        return (f"That is {age_in_words(age_s)} ago.", "") if age_s >= 0 else ("", "")
    ago = f"{age_in_words(age_s)} ago"
    return f"That is {ago}. These values are old; say so.", f"get_weather answered with old values, measured {ago}"
