from html.parser import HTMLParser

import pytest

from pipeline.report.markup import element, join
from pipeline.report.wording import duration, number, percent, plural, shortened, size

HOSTILE = """</title><script>alert("1")</script>' onload='x & &amp;"""


class Reader(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.text = [], ""

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data


def test_text_and_attributes_come_back_as_they_went_in():
    reader = Reader()
    reader.feed(element("p", HOSTILE, title=HOSTILE))
    assert reader.tags == [("p", {"title": HOSTILE})]
    assert reader.text == HOSTILE


def test_markup_is_not_escaped_twice():
    assert element("p", element("b", "<")) == "<p><b>&lt;</b></p>"
    assert join("<", [element("i", "x"), None, 3]) == "&lt;<i>x</i>3"


def test_attributes_that_are_not_there_leave_no_trace():
    assert element("img", alt="", class_=None, hidden=False) == '<img alt="">'
    assert element("p", aria_label="a", focusable=True) == '<p aria-label="a" focusable></p>'


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (1234567, "1,234,567"), (0.01234, "0.0123"), (12.345, "12.3"), (999.6, "1,000")],
)
def test_numbers_keep_the_digits_that_matter(value, text):
    assert number(value) == text


@pytest.mark.parametrize(
    ("told", "text"),
    [
        (duration(0.5), "0.500 s"),
        (duration(59.99), "60.0 s"),
        (duration(74.3), "1 min 14 s"),
        (duration(3599.9), "60 min 00 s"),
        (duration(3 * 3600 + 59), "3 h 01 min"),
        (duration(50 * 3600), "2 d 02 h"),
        (size(3 << 29), "1.50 GiB"),
        (size(12), "12.0 B"),
        (percent(0.1234), "12.3 %"),
        (percent(1e-6), "< 0.1 %"),
        (percent(0.0), "0.0 %"),
        (plural(1, "block"), "1 block"),
        (plural(2, "class", "classes"), "2 classes"),
        (shortened("abcdef", 4), "abc…"),
    ],
)
def test_quantities_read_as_people_say_them(told, text):
    assert told.replace("\u202f", " ") == text
