import random
from datetime import UTC, datetime, timedelta, timezone
from zoneinfo import ZoneInfo

import pytest
import yaml

from components.core.errors import InputError
from components.core.rules.window import Window

BERLIN = ZoneInfo("Europe/Berlin")
# In 2025 Berlin's clocks went from 02:00 to 03:00 on 30 March and from 03:00 to 02:00 on 26 October, at 01:00 UTC both.
MINUTE = timedelta(minutes=1)


def utc(text):
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def open_spans(window, first, last):
    """The spans between two UTC moments in which the window is open, found minute by minute."""
    spans = []
    for minute in range(int((last - first) / MINUTE)):
        moment = first + minute * MINUTE
        if window.contains(moment):
            if spans and spans[-1][1] == moment:
                spans[-1][1] = moment + MINUTE
            else:
                spans.append([moment, moment + MINUTE])
    return [(f"{start:%d %H:%M}", f"{end:%d %H:%M}") for start, end in spans]


@pytest.mark.parametrize(
    ("written", "inside", "outside"),
    [
        ("01:00-02:00", ["01:00:00", "01:30:00", "01:59:59.999999"], ["00:59:59.999999", "02:00:00", "13:30:00"]),
        ("1:00-2:00", ["01:00:00"], ["10:30:00", "02:00:00"]),
        ("22:00-06:00", ["22:00:00", "23:59:59", "00:00:00", "05:59:59"], ["21:59:59", "06:00:00", "12:00:00"]),
        ("20:00-24:00", ["20:00:00", "23:59:59"], ["00:00:00", "19:59:59"]),
        ("20:00-00:00", ["20:00:00", "23:59:59"], ["00:00:00", "19:59:59"]),
        ("00:00-24:00", ["00:00:00", "12:00:00", "23:59:59"], []),
        ("00:00-00:00", ["00:00:00", "12:00:00", "23:59:59"], []),
        ("06:00-06:00", ["05:59:59", "06:00:00", "23:59:59", "00:00:00"], []),
    ],
)
def test_the_start_is_inside_and_the_end_is_not(written, inside, outside):
    window = Window.parse(written)
    assert [time for time in inside if not window.contains(utc(f"2025-06-04T{time}"))] == []
    assert [time for time in outside if window.contains(utc(f"2025-06-04T{time}"))] == []


def test_the_clock_is_the_one_of_the_time_zone():
    window = Window.parse({"start": "09:00", "end": "10:00", "timezone": "Asia/Kolkata"})
    assert window.contains(utc("2025-06-04T03:30"))
    assert not window.contains(utc("2025-06-04T09:30"))
    assert window.contains(datetime(2025, 6, 4, 5, 45, tzinfo=BERLIN))
    assert window.contains(datetime(2025, 6, 3, 23, 45, tzinfo=timezone(timedelta(hours=-4))))


def test_without_time_zone_it_is_utc():
    assert Window.parse({"start": "09:00", "end": "10:00"}).contains(utc("2025-06-04T09:30"))


def test_a_window_over_midnight_belongs_to_the_day_of_its_start():
    window = Window.parse({"start": "22:00", "end": "06:00", "weekdays": "fri"})
    # 2025-06-06 is a Friday
    assert open_spans(window, utc("2025-06-02"), utc("2025-06-16")) == [
        ("06 22:00", "07 06:00"),
        ("13 22:00", "14 06:00"),
    ]


def test_24_hours_from_a_time_on_one_weekday():
    window = Window.parse({"start": "06:00", "end": "06:00", "weekdays": ["sun"]})
    assert open_spans(window, utc("2025-06-03"), utc("2025-06-12")) == [("08 06:00", "09 06:00")]


@pytest.mark.parametrize(
    ("written", "days"),
    [
        ("mon-fri", "mon tue wed thu fri"),
        ("fri-mon", "mon fri sat sun"),
        ("Saturday, SUN", "sat sun"),
        (["mon-tue", "thurs"], "mon tue thu"),
        ("wed-wed", "wed"),
        ("sun-sat", "mon tue wed thu fri sat sun"),
    ],
)
def test_weekdays_are_names_and_ranges(written, days):
    window = Window.parse({"start": "01:00", "end": "02:00", "weekdays": written})
    assert Window.parse(window.describe()) == window
    monday = utc("2025-06-02T01:30")
    names = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
    assert [names[day] for day in range(7) if window.contains(monday + timedelta(days=day))] == days.split()


@pytest.mark.parametrize(
    ("written", "spans"),
    [
        ("01:00-03:00", [("30 00:00", "30 01:00")]),  # the hour from two to three is skipped
        ("01:30-04:00", [("30 00:30", "30 02:00")]),
        ("02:30-04:00", [("30 01:00", "30 02:00")]),  # opens when the clock jumps into it
        ("02:00-03:00", []),
        ("02:15-02:45", []),
        ("22:00-06:00", [("29 21:00", "30 04:00"), ("30 20:00", "31 04:00")]),
    ],
)
def test_clocks_are_put_forward(written, spans):
    window = Window.parse(f"{written} Europe/Berlin sat-sun")
    assert open_spans(window, utc("2025-03-29T12:00"), utc("2025-03-31T12:00")) == spans


@pytest.mark.parametrize(
    ("written", "spans"),
    [
        ("01:00-04:00", [("25 23:00", "26 03:00")]),  # four hours long
        ("02:00-03:00", [("26 00:00", "26 02:00")]),
        ("02:15-02:45", [("26 00:15", "26 00:45"), ("26 01:15", "26 01:45")]),
        ("01:30-02:30", [("25 23:30", "26 00:30"), ("26 01:00", "26 01:30")]),
        ("22:00-06:00", [("25 20:00", "26 05:00"), ("26 21:00", "27 05:00")]),
    ],
)
def test_clocks_are_put_back(written, spans):
    window = Window.parse(f"{written} Europe/Berlin sat-sun")
    assert open_spans(window, utc("2025-10-25T12:00"), utc("2025-10-27T12:00")) == spans


def test_both_of_the_doubled_hour_are_told_apart():
    window = Window.parse("02:30-03:30 Europe/Berlin")
    assert not window.contains(datetime(2025, 10, 26, 2, 29, tzinfo=BERLIN, fold=1))
    assert window.contains(datetime(2025, 10, 26, 2, 30, tzinfo=BERLIN, fold=0))
    assert window.contains(datetime(2025, 10, 26, 2, 30, tzinfo=BERLIN, fold=1))


def test_a_time_that_the_clock_skips_is_the_one_it_shows_instead():
    skipped = datetime(2025, 3, 30, 2, 30, tzinfo=BERLIN)  # shown as 03:30
    assert Window.parse("03:00-04:00 Europe/Berlin").contains(skipped)
    assert not Window.parse("02:00-03:00 Europe/Berlin").contains(skipped)


@pytest.mark.parametrize(
    ("written", "moment", "opens"),
    [
        ("22:00-06:00", "2025-06-04T12:00", "2025-06-04T22:00:00+00:00"),
        ("22:00-06:00", "2025-06-04T21:59:59.5", "2025-06-04T22:00:00+00:00"),
        ("22:00-06:00", "2025-06-04T23:12:13", "2025-06-04T23:12:13+00:00"),
        ("22:00-06:00 UTC fri", "2025-06-07T06:00", "2025-06-13T22:00:00+00:00"),
        ("02:00-03:00 Europe/Berlin", "2025-06-04T12:00", "2025-06-05T02:00:00+02:00"),
        ("02:30-04:00 Europe/Berlin", "2025-03-30T00:00", "2025-03-30T03:00:00+02:00"),
        ("02:15-02:45 Europe/Berlin", "2025-03-29T12:00", "2025-03-31T02:15:00+02:00"),
        ("02:15-02:45 Europe/Berlin sun", "2025-03-23T12:00", "2025-04-06T02:15:00+02:00"),
        ("02:15-02:45 Europe/Berlin", "2025-10-26T00:50", "2025-10-26T02:15:00+01:00"),
        ("09:00-10:00 Asia/Kolkata", "2025-06-04T12:00", "2025-06-05T09:00:00+05:30"),
        ("00:00-01:00 Pacific/Apia fri", "2011-12-29T12:00", "2012-01-06T00:00:00+14:00"),  # had no 30 December
    ],
)
def test_when_it_opens_next(written, moment, opens):
    assert Window.parse(written).opens_next(utc(moment)).isoformat() == opens


def test_it_opens_at_the_first_open_moment():
    chance = random.Random(7)
    for _ in range(60):
        start, end = chance.randrange(1440), chance.randrange(1, 1441)
        days = chance.sample(["mon", "tue", "wed", "thu", "fri", "sat", "sun"], chance.randint(1, 7))
        window = Window.parse(
            {
                "start": f"{start // 60}:{start % 60:02d}",
                "end": f"{end // 60}:{end % 60:02d}",
                "timezone": chance.choice(["Europe/Berlin", "America/St_Johns", "Australia/Lord_Howe"]),
                "weekdays": days,
            }
        )
        moment = utc("2025-01-01") + timedelta(seconds=chance.randrange(365 * 86400))
        opens = window.opens_next(moment)
        assert opens >= moment
        assert window.contains(opens)
        if opens > moment:
            assert not window.contains(opens - timedelta(microseconds=1))
            waits = (opens - moment).total_seconds()
            assert not any(window.contains(moment + timedelta(seconds=chance.uniform(0, waits))) for _ in range(50))


def test_it_depends_on_the_moment_alone():
    window = Window.parse("01:00-02:00")
    inside, outside = utc("2025-06-04T01:30"), utc("2025-06-04T00:59")
    assert [window.contains(moment) for moment in (inside, outside, inside, outside)] == [True, False, True, False]


def test_a_moment_without_time_zone_is_refused():
    window = Window.parse("01:00-02:00")
    with pytest.raises(ValueError, match="has no time zone"):
        window.contains(datetime(2025, 6, 4, 1, 30))
    with pytest.raises(ValueError, match="has no time zone"):
        window.opens_next(datetime(2025, 6, 4, 1, 30))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"start": "1:00", "end": "24:00"}, "01:00-24:00 UTC"),
        ("22:00 - 6:00 Europe/Berlin mon-wed", "22:00-06:00 Europe/Berlin mon,tue,wed"),
        ("22:00-6:00 sat, sun", "22:00-06:00 UTC sat,sun"),
        ("22:00-6:00 sat sun Etc/GMT-3", "22:00-06:00 Etc/GMT-3 sat,sun"),
        ("22:00-6:00 America/Port-au-Prince", "22:00-06:00 America/Port-au-Prince"),
    ],
)
def test_what_is_written_out_reads_the_same(value, text):
    window = Window.parse(value)
    assert window.describe() == text
    assert Window.parse(text) == window


@pytest.mark.parametrize(
    ("written", "words"),
    [
        ("start: 20:00", '1200 is how YAML reads 20:00: write "20:00"'),
        ("start: 1:00", '60 is how YAML reads 1:00: write "1:00"'),
        ("start: 24:00", '1440 is how YAML reads 24:00: write "24:00"'),
        ("start: 1200.0", '1200 is how YAML reads 20:00: write "20:00"'),
        ("start: 20:00:00", "72000 is not a time"),
        ("start: yes", "True is not a time"),
        ("start: '20:00:00'", "'20:00:00' is not a time"),
        ("start: '24:00'", '24:00 is valid only as an end: write "00:00"'),
        ("start: '24:01'", "'24:01' is not a time"),
        ("start: '12:60'", "'12:60' is not a time"),
        ("start: '2000'", "'2000' is not a time"),
        ("start: '-1:00'", "'-1:00' is not a time"),
        ('start: "\\u0660\\u0661:\\u0660\\u0660"', "is not a time"),  # digits, but Arabic ones
        ("start:", "None is not a time"),
        ("timezone: Europe/Berln", "unknown time zone 'Europe/Berln': did you mean Europe/Berlin?"),
        ("timezone: Mars", "unknown time zone 'Mars'"),
        ("timezone: Europe", "unknown time zone 'Europe'"),
        ("timezone: ../../etc/passwd", "unknown time zone"),
        ("timezone: ''", "unknown time zone ''"),
        ("timezone: 1", "unknown time zone 1"),
        ("weekdays: mon-fry", "'fry' is not a weekday: choose from mon, tue, wed, thu, fri, sat, sun"),
        ("weekdays: m", "'m' is not a weekday"),
        ("weekdays: ''", "'' is not a weekday"),
        ("weekdays: []", "[] are not weekdays"),
        ("weekdays: [1, 2]", "[1, 2] are not weekdays"),
        ("weekdays:", "None are not weekdays"),
        ("weekday: mon", "unknown key 'weekday': did you mean weekdays?"),
        ("daily: true", "unknown key 'daily'"),
    ],
)
def test_a_wrong_field_is_told(written, words):
    value = {"start": "01:00", "end": "02:00", **yaml.safe_load(written)}
    with pytest.raises(InputError) as raised:
        Window.parse(value, "train_window")
    assert words in str(raised.value)
    assert str(raised.value).startswith("train_window=")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("value", [None, "", "22:00", "at night", 5, [], ["22:00", "06:00"]])
def test_what_is_no_window_is_refused(value):
    with pytest.raises(InputError, match=r'not a window: write \{start: "22:00", end: "06:00"\} or 22:00-06:00'):
        Window.parse(value)


def test_every_mistake_is_told_at_once():
    with pytest.raises(InputError) as raised:
        Window.parse({"begin": "1", "end": 1200, "timezone": "Mars", "weekdays": "xyz"})
    for words in ("'begin'", "start is missing", "end: 1200", "'Mars'", "'xyz'"):
        assert words in str(raised.value)
