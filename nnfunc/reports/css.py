"""The style sheet of the reports, for light and dark mode."""

__all__ = ["STYLE"]

STYLE = """
:root { color-scheme: light dark; --grey: #5c6770; --blue: #1f5fbf; --line: #8883; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 66rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 1.1rem; margin: 1.8rem 0 .4rem; }
.note { color: var(--grey); margin: .2rem 0 .8rem; }
.cards { display: flex; flex-wrap: wrap; gap: .8rem; margin-bottom: 1rem; }
.card { border: 1px solid #8884; border-radius: .5rem; padding: .6rem 1rem; color: var(--grey); }
.card b { display: block; font-size: 1.4rem; color: var(--blue); }
img.plain { width: 100%; background: #fff; border-radius: .5rem; }
.columns { display: grid; grid-template-columns: repeat(auto-fit, minmax(20rem, 1fr)); gap: 0 2rem; }
table { border-collapse: collapse; width: 100%; font-size: .87rem; }
th { text-align: left; font-weight: 500; padding-right: 1rem; vertical-align: top; }
.columns th { white-space: nowrap; }
td { overflow-wrap: anywhere; } tr { border-bottom: 1px solid var(--line); }
.step { text-align: right; padding-right: 1rem; width: 5rem; font-variant-numeric: tabular-nums; }
.events th { width: 8rem; overflow-wrap: anywhere; }
.findings { margin: .3rem 0; padding-left: 1.2rem; } .findings li { margin: .3rem 0; }
.findings li, .paths { overflow-wrap: anywhere; }
i { font-style: normal; }
figure { margin: 1.2rem 0 1.8rem; } figcaption { margin-bottom: .3rem; }
.map, .axis { display: grid; grid-template-columns: minmax(6rem, 17rem) 1fr 4.2rem; gap: 0 .6rem; }
.map { --row: 20px; } .small { --row: 14px; max-height: 40rem; overflow-y: auto; }
.map i { display: block; height: var(--row); line-height: var(--row); font-size: 12px; }
.small i { font-size: 11px; }
.names i { overflow: hidden; text-overflow: ellipsis; white-space: nowrap; text-align: right; }
.last i { font-variant-numeric: tabular-nums; white-space: nowrap; color: var(--grey); }
.map img { width: 100%; height: calc(var(--rows) * var(--row)); image-rendering: pixelated; }
.map img, .plot img { background: repeating-linear-gradient(45deg, #8882 0 3px, #0000 3px 7px); }
.whole .names { display: flex; flex-direction: column; justify-content: space-between; }
.map.whole img { height: clamp(15rem, calc(var(--rows) * 1px), 40rem); }
.map.huge img { image-rendering: auto; }
.axis, .scale, .ends, .plot { font-size: 11px; color: var(--grey); }
.axis div, .scale div, .ends { display: flex; justify-content: space-between; }
.scale { width: 17rem; margin: 0 0 .5rem; } .scale div { position: relative; }
.scale img { width: 100%; height: 10px; image-rendering: pixelated; border-radius: 2px; }
.scale u { position: absolute; left: calc(50% - 1px); top: -2px; height: 14px; width: 2px;
  background: #c23b4b; }
details { border-top: 1px solid var(--line); padding: .3rem 0; }
figure details { border: none; } summary { cursor: pointer; }
summary i { color: var(--grey); font-size: .85rem; margin-left: .4rem; }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(14rem, 1fr)); gap: .9rem 1.2rem;
  padding: .6rem 0; }
.hist { font-size: 12px; min-width: 0; }
.hist b { display: block; overflow: hidden; text-overflow: ellipsis; white-space: nowrap;
  font-weight: 500; }
.hist span { color: var(--grey); }
.plot { display: grid; grid-template-columns: 3.4rem 1fr; gap: 0 .4rem; }
.plot div { display: flex; flex-direction: column; justify-content: space-between; text-align: right; }
.plot img { width: 100%; height: 64px; image-rendering: pixelated; background: #8881; }
.ends { padding-left: 3.8rem; }
.wide { overflow-x: auto; margin: 1rem 0; } .numbers td { white-space: nowrap; }
.numbers th, .numbers td { text-align: right; padding: .15rem .6rem; }
.numbers :first-child { text-align: left; }
@media (prefers-color-scheme: dark) {
  :root { --grey: #9aa5ae; --blue: #7fb0f5; }
  body { background: #14171a; color: #dde2e6; }
  img.plain { filter: invert(.92) hue-rotate(180deg); }
}
"""
