"""The weather: which place, measured when, and never a number that nobody measured."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any

import pytest

from errors import AgentError, BadInput
from events import AttemptFailed, FellBack
from tests.fake_web import FakeWeb, Said, forecast, geocoding, open_meteo, place, said
from tests.support import Doors
from tests.support_tools import Bench
from toolbox.cache import LastGood
from toolbox.weather import Weather, places_in, weather_in, weather_tool
from tools import Tool, Toolbox, ToolOutput

MEASURED_S = 1_784_190_600.0  # 2026-07-16T10:30 in Berlin
WALL_S = MEASURED_S + 480


@pytest.fixture
def web() -> Iterator[FakeWeb]:
    with FakeWeb() as server:
        yield server


def tool_of(bench: Bench, path: bool = True, wall_s: float = WALL_S) -> Tool:
    cache: LastGood[Weather] = LastGood()
    url = bench.web.url
    return weather_tool(
        f"{url}/v1/search" if path else url,
        f"{url}/v1/forecast" if path else url,
        bench.guards,
        bench.plan,
        cache,
        bench.now,
        lambda: wall_s,
    )


@pytest.mark.parametrize("path", [True, False])
def test_the_weather_of_a_place_is_told_with_units_place_and_age(doors: Doors, web: FakeWeb, path: bool) -> None:
    open_meteo(web)
    bench = Bench(doors, web)
    output = bench.ask(tool_of(bench, path), city="Berlin")
    assert output.text.splitlines() == [
        "Weather in Berlin, State of Berlin, Germany (Open-Meteo):",
        "Now: 25.4 °C (feels like 26.1 °C), partly cloudy, humidity 48 %, wind 11.2 km/h from the west, "
        "precipitation 0 mm.",
        "2026-07-16: 16.2 to 27.1 °C, partly cloudy, 10 % chance of precipitation.",
        "2026-07-17: 15 to 24 °C, light rain, 70 % chance of precipitation.",
        "2026-07-18: 14.4 to 22.5 °C, thunderstorm, 85 % chance of precipitation.",
        "Measured 2026-07-16 10:30 local time (Europe/Berlin).",
        "That is 8 min ago.",
    ]
    assert (output.source, output.degraded, output.untrusted, output.notice) == ("open_meteo", False, False, "")
    assert web.asked[0].query == {"name": "Berlin", "count": "5", "language": "en", "format": "json"}
    where = web.asked[1].query
    assert (where["latitude"], where["longitude"], where["timezone"]) == ("52.5244", "13.4105", "auto")
    assert "temperature_2m" in where["current"]
    assert bench.context.tries == 1


def test_of_several_places_the_most_populous_is_answered_and_the_others_are_named(doors: Doors, web: FakeWeb) -> None:
    texas = place("Paris", admin1="Texas", country="United States", population=24_782)
    france = place("Paris", admin1="Île-de-France", country="France", population=2_138_551, latitude=48.85341)
    open_meteo(web, texas, france)
    output = (bench := Bench(doors, web)).ask(tool_of(bench), city="Paris")
    assert output.text.startswith("Weather in Paris, Île-de-France, France")
    assert "The name also fits: Paris, Texas, United States." in output.text
    assert web.asked[1].query["latitude"] == "48.8534"


def test_a_place_nobody_knows_is_an_answer_and_no_failure(doors: Doors, web: FakeWeb) -> None:
    web.on("/v1/search", said(geocoding()))
    output = (bench := Bench(doors, web)).ask(tool_of(bench), city="Xyzzyville")
    assert output == ToolOutput(
        "The geocoding service of Open-Meteo knows no place called 'Xyzzyville'.", source="open_meteo"
    )
    assert web.paths() == ["/v1/search"]
    assert doors.heard.of(AttemptFailed) == []


@pytest.mark.parametrize("city", ["", "   ", "x" * 500, "Ber\x1b[31mlin", "a\x00b", "Ber\nlin", "\ud800"])
def test_what_is_no_city_goes_back_to_the_model_and_asks_nobody(doors: Doors, web: FakeWeb, city: str) -> None:
    bench = Bench(doors, web)
    with pytest.raises(BadInput):
        bench.ask(tool_of(bench), city=city)
    assert web.asked == []
    assert bench.context.tries == 0


@pytest.mark.parametrize(
    "answer",
    [
        Said(200, b"<html>sorry</html>", {"Content-Type": "text/html"}),
        Said(200, b""),
        Said(200, b'{"current": {"temperature_2m": NaN}}'),
        Said(200, b"[" * 100_000),
        said([]),
        said({"error": "yes"}),
        said({"current": None}),
        said(forecast({"temperature_2m": None})),
        said(forecast({"temperature_2m": 9999})),
        said(forecast({"temperature_2m": "25.4"})),
        said(forecast({"temperature_2m": True})),
        said(forecast({"temperature_2m": -300})),
        said({**forecast(), "current_units": {"temperature_2m": "K"}}),
        said({**forecast(), "current_units": None}),
        Said(503, b"<html>gateway</html>", {"Content-Type": "text/html"}),
        Said(302, b"", {"Location": "http://127.0.0.1:1/"}),
        Said(200, json.dumps(forecast()).encode(), cut=100),
        said({"error": True, "reason": "Daily API request limit exceeded. Please try again tomorrow."}, 429),
    ],
)
def test_an_answer_that_cannot_be_believed_is_said_to_be_missing(doors: Doors, web: FakeWeb, answer: Said) -> None:
    open_meteo(web)
    web.on("/v1/forecast", answer)
    output = (bench := Bench(doors, web)).ask(tool_of(bench), city="Berlin")
    assert output.degraded is True
    assert output.text.startswith("not available right now (")
    assert output.notice.startswith("get_weather is missing: ")
    assert "°" not in output.text
    assert "<html" not in output.text
    assert doors.heard.of(AttemptFailed)


def test_a_used_up_plan_is_not_asked_again_but_a_busy_moment_is(doors: Doors, web: FakeWeb) -> None:
    open_meteo(web)
    web.on("/v1/search", said({"error": True, "reason": "Daily API request limit exceeded."}, 429))
    bench = Bench(doors, web)
    bench.ask(tool_of(bench), city="Berlin")
    assert bench.context.tries == 1
    web.on("/v1/search", said({"error": True, "reason": "Minutely API request limit exceeded."}, 429))
    bench.ask(tool_of(bench), city="Berlin")
    assert bench.context.tries > 1


def test_when_it_fails_the_last_good_answer_stands_in_and_says_how_old_it_is(doors: Doors, web: FakeWeb) -> None:
    open_meteo(web)
    bench = Bench(doors, web)
    tool = tool_of(bench)
    assert bench.ask(tool, city="Berlin").degraded is False
    web.on("/v1/search", Said(500, b"{}"))
    bench.now_s += 720
    output = bench.ask(tool, city=" BERLIN")
    assert output.degraded is True
    assert output.source == "cache, 12 min old"
    assert output.text.startswith("No live answer now (open_meteo: server error (500)). This is from 12 min ago:")
    assert "25.4 °C" in output.text
    assert output.notice.startswith("get_weather answered from the cache, 12 min old, because of open_meteo: ")
    assert doors.heard.of(FellBack)[-1].to == "cache"
    assert bench.ask(tool, city="Hamburg").text.startswith("not available right now (")


def test_an_answer_from_the_cache_is_given_also_when_the_time_is_over(doors: Doors, web: FakeWeb) -> None:
    open_meteo(web)
    bench = Bench(doors, web)
    tool = tool_of(bench)
    bench.ask(tool, city="Berlin")
    assert bench.ask(tool, limit_s=0.1, city="Berlin").source == "cache, under a minute old"


def test_an_unknown_place_is_not_remembered_as_an_answer(doors: Doors, web: FakeWeb) -> None:
    web.on("/v1/search", said(geocoding()))
    bench = Bench(doors, web)
    tool = tool_of(bench)
    bench.ask(tool, city="Berlin")
    web.on("/v1/search", Said(500, b"{}"))
    assert "not available" in bench.ask(tool, city="Berlin").text


def test_a_fault_of_the_plan_strikes_each_provider_attempt(doors: Doors, web: FakeWeb) -> None:
    open_meteo(web)
    bench = Bench(doors, web, "get_weather:server_error*1")
    assert bench.ask(tool_of(bench), city="Berlin").degraded is False
    assert bench.context.tries == 2
    assert web.paths() == ["/v1/search", "/v1/forecast"]
    bench = Bench(doors, web, "get_weather.open_meteo:error")
    assert "injected fault" in bench.ask(tool_of(bench), city="Berlin").text


def test_text_of_the_service_is_cleaned_and_bounded(doors: Doors, web: FakeWeb) -> None:
    open_meteo(web, place("Ber\x1b[2Jlin\u202e", country="G" * 5000, admin1="a\nb"), timezone="Eu\x07rope")
    text = (bench := Bench(doors, web)).ask(tool_of(bench), city="Berlin").text
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert "\x07" not in text
    assert len(text) < 2000


# --- reading -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "value", "gone"),
    [
        ("relative_humidity_2m", 140, "humidity unknown"),
        ("relative_humidity_2m", None, "humidity unknown"),
        ("wind_speed_10m", 9999, "wind unknown"),
        ("wind_speed_10m", -1, "wind unknown"),
        ("precipitation", "0", "precipitation unknown"),
        ("weather_code", 42, "conditions unknown"),
        ("weather_code", "2", "conditions unknown"),
        ("weather_code", None, "conditions unknown"),
    ],
)
def test_one_absurd_value_is_unknown_and_the_rest_stands(field: str, value: Any, gone: str) -> None:
    weather = weather_in(forecast({field: value}), "Berlin", [])
    assert gone in weather.text
    assert "25.4 °C" in weather.text


def test_a_felt_temperature_or_a_direction_that_is_missing_is_left_out() -> None:
    text = weather_in(forecast({"apparent_temperature": None, "wind_direction_10m": 400}), "Berlin", []).text
    assert "feels like" not in text
    assert "km/h," in text


def test_other_units_are_told_as_they_are() -> None:
    found = forecast({"temperature_2m": 77.7})
    found["current_units"] = {**found["current_units"], "temperature_2m": "°F", "wind_speed_10m": "mp/h"}
    text = weather_in(found, "Berlin", []).text
    assert "77.7 °F" in text
    assert "11.2 mp/h" in text


@pytest.mark.parametrize(
    "daily",
    [None, [], {}, {"time": "2026"}, {"time": [None, 3]}, {"time": ["x"], "temperature_2m_max": [1]}],
)
def test_a_broken_forecast_is_left_out_and_the_present_stands(daily: Any) -> None:
    lines = weather_in({**forecast(), "daily": daily}, "Berlin", []).text.splitlines()
    assert len(lines) == 3


def test_a_day_that_is_colder_at_its_warmest_is_left_out() -> None:
    found = forecast()
    found["daily"]["temperature_2m_max"][1] = 3.0
    assert "2026-07-17" not in weather_in(found, "Berlin", []).text


@pytest.mark.parametrize("time", [None, "yesterday", 12, "2026-07-16T10:30+02:00", "9999-12-31T00:00"])
def test_a_time_that_cannot_be_read_is_said_to_be_unknown(time: Any) -> None:
    weather = weather_in(forecast({"time": time}), "Berlin", [])
    assert "When this was measured is unknown." in weather.text
    assert weather.measured_s is None


def test_the_time_of_measuring_counts_the_offset_of_the_place() -> None:
    assert weather_in(forecast(), "Berlin", []).measured_s == MEASURED_S


def test_old_values_are_called_old(doors: Doors, web: FakeWeb) -> None:
    open_meteo(web)
    bench = Bench(doors, web)
    tool = tool_of(bench, wall_s=MEASURED_S + 5 * 3600)
    assert "That is 5 h ago. These values are old; say so." in bench.ask(tool, city="Berlin").text


def test_weather_from_the_future_is_told_to_be_that_but_a_clock_may_be_a_little_off(doors: Doors, web: FakeWeb) -> None:
    open_meteo(web)
    bench = Bench(doors, web)
    output = bench.ask(tool_of(bench, wall_s=MEASURED_S - 2 * 3600), city="Berlin")
    assert "dated 2 h ahead: the service's clock or this machine's is wrong. Say so." in output.text
    assert (output.degraded, output.notice.startswith("get_weather answered with values dated")) == (True, True)
    output = bench.ask(tool_of(bench, wall_s=MEASURED_S - 600), city="Berlin")
    assert (output.degraded, "wrong" in output.text) == (False, False)


@pytest.mark.parametrize(("age_s", "is_told"), [(3 * 3600, False), (3 * 3600 + 1, True)])
def test_the_program_itself_tells_of_old_values_and_never_keeps_them(
    doors: Doors, web: FakeWeb, age_s: float, is_told: bool
) -> None:
    open_meteo(web)
    bench = Bench(doors, web)
    tool = tool_of(bench, wall_s=MEASURED_S + age_s)
    output = bench.ask(tool, city="Berlin")
    told = "get_weather answered with old values, measured 3 h ago"
    assert (output.degraded, output.notice) == (is_told, told if is_told else "")
    web.on("/v1/search", Said(500, b"{}"))
    assert ("not available" in bench.ask(tool, city="Berlin").text) == is_told


@pytest.mark.parametrize(
    ("at", "answered", "fits"),
    [
        ((52.52, 13.41), (52.5, 13.375), True),
        ((52.52, 13.41), (53.27, 14.16), True),  # a neighbour in the coarsest grid
        ((52.52, 13.41), (48.86, 2.35), False),
        ((52.52, 13.41), (-52.52, 13.41), False),
        ((52.52, 13.41), (13.41, 52.52), False),
        ((-17.8, 179.95), (-17.75, -179.9), True),  # across the date line
        ((78.22, 15.65), (78.25, 20.0), True),  # meridians are near each other there
        ((0.0, 15.65), (0.0, 20.0), False),
        ((89.9, 0.0), (89.9, 180.0), True),
        ((52.52, 13.41), (None, 13.41), True),  # what is not said cannot be checked
        ((52.52, 13.41), ("48.86", 2.35), True),
    ],
)
def test_a_forecast_for_somewhere_else_is_not_taken(
    doors: Doors, web: FakeWeb, at: tuple[float, float], answered: tuple[Any, Any], fits: bool
) -> None:
    where = dict(zip(("latitude", "longitude"), answered, strict=True))
    open_meteo(web, place("Here", latitude=at[0], longitude=at[1]), **where)
    output = (bench := Bench(doors, web)).ask(tool_of(bench), city="Here")
    assert output.degraded is not fits
    assert ("somewhere else than Here" in output.notice) is not fits


@pytest.mark.parametrize(
    ("now", "unit", "fits"),
    [
        (25.4, "°C", True), (37.1, "°C", True), (37.2, "°C", False), (6.2, "°C", True), (6.1, "°C", False),
        (-20, "°C", False), (61.9, "°C", False), (77.7, "°F", True),
    ],
)  # fmt: skip
def test_a_temperature_that_cannot_be_on_such_a_day_is_not_believed(now: float, unit: str, fits: bool) -> None:
    found = forecast({"temperature_2m": now})
    found["current_units"]["temperature_2m"] = unit
    if fits:
        assert f"{now:g} {unit}" in weather_in(found, "Berlin", []).text
        return
    with pytest.raises(AgentError, match="far outside the range of its own day"):
        weather_in(found, "Berlin", [])


@pytest.mark.parametrize("daily", [{"time": ["2026-07-15"]}, {"time": None}, {"temperature_2m_max": ["x"]}])
def test_without_the_range_of_the_day_there_is_nothing_to_contradict(daily: dict[str, Any]) -> None:
    found = forecast({"temperature_2m": 50})
    found["daily"].update(daily)
    assert "50 °C" in weather_in(found, "Berlin", []).text


def test_places_without_a_name_or_position_are_no_places() -> None:
    for broken in ({}, {"name": "x"}, {"name": "x", "latitude": 91, "longitude": 0}, {"latitude": 1, "longitude": 1}):
        with pytest.raises(AgentError, match="places"):
            places_in({"results": [broken]})
    assert len(places_in({"results": [None, "x", place()]})) == 1
    assert places_in({"results": [place(population=None)]})[0].population == 0
    assert places_in({}) == places_in({"results": None}) == []
    with pytest.raises(AgentError):
        places_in({"results": "many"})


def test_a_number_that_is_not_finite_never_passes() -> None:
    for value in (math.nan, math.inf, -math.inf):
        with pytest.raises(AgentError):
            weather_in(forecast({"temperature_2m": value}), "Berlin", [])


def test_the_schema_is_one_the_registry_takes(web: FakeWeb) -> None:
    tool = tool_of(Bench(Doors("virtual"), web))
    Toolbox([tool])
    assert (tool.critical, tool.writes) == (False, False)
