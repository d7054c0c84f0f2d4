"""Durations as text."""


def format_seconds(seconds: float) -> str:
    """A short time in seconds or milliseconds.

    seconds: at least 0.

    >>> format_seconds(0.00123), format_seconds(12.3)
    ('1.23 ms', '12.3 s')
    """
    return f"{seconds:.3g} s" if seconds >= 1 else f"{1e3 * seconds:.3g} ms"


def format_clock(seconds: float) -> str:
    """Hours, minutes and seconds as on a clock.

    seconds: "?" for NaN and negative ones.

    >>> format_clock(65), format_clock(7209), format_clock(float("nan"))
    ('1:05', '2:00:09', '?')
    """
    if not 0 <= seconds < 1e9:
        return "?"
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def format_duration(seconds: float) -> str:
    """A duration in the unit that suits it.

    seconds: at least 0.

    >>> format_duration(2.51), format_duration(57), format_duration(600), format_duration(9000)
    ('2.5 s', '57 s', '10 min', '2.5 h')
    """
    if seconds < 100:
        return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
