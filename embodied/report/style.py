"""The style sheet of a report: light, no fonts or scripts from elsewhere, prints well."""

CSS = """
:root { color-scheme: light; --ink: #1d2731; --soft: #5b6874; --line: #dfe5ea; --paper: #fff;
  --blue: #0072B2; --vermilion: #D55E00; --green: #00795a; }
* { box-sizing: border-box; }
body { margin: 0; background: #f4f6f8; color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Liberation Sans", sans-serif; }
main { max-width: 1000px; margin: 0 auto; padding: 40px 28px 64px; }
h1 { font-size: 30px; font-weight: 400; letter-spacing: -.01em; margin: 0 0 8px; }
h1 b { font-weight: 650; }
h2 { font-size: 18px; font-weight: 650; margin: 0 0 14px; }
h3 { font-size: 13px; font-weight: 650; margin: 0 0 8px; color: var(--soft); }
header { margin-bottom: 24px; }
.chips { margin: 0 0 22px; color: var(--soft); font-size: 14px; }
.chips span + span::before { content: "·"; margin: 0 9px; color: #b3bec8; }
.headline { display: flex; flex-wrap: wrap; align-items: stretch; gap: 14px; }
.card { background: var(--paper); border: 1px solid var(--line); border-top: 4px solid var(--blue);
  border-radius: 8px; padding: 14px 18px 14px; min-width: 214px; display: flex;
  flex-direction: column; font-size: 13px; color: var(--soft); }
.card.before { border-top-color: var(--vermilion); }
.card strong { font-size: 38px; line-height: 1.2; font-weight: 650; color: var(--ink);
  font-variant-numeric: tabular-nums; letter-spacing: -.02em; }
.card small { font-size: 13px; font-weight: 600; color: var(--blue); }
.card.before small { color: #b34f00; }
.bar { position: relative; height: 8px; margin: 10px 0 8px; border-radius: 4px;
  background: #e9edf1; }
.bar i { position: absolute; top: 0; bottom: 0; border-radius: 4px; background: #8fc1e0; }
.bar b { position: absolute; top: -3px; bottom: -3px; width: 3px; margin-left: -1.5px;
  border-radius: 2px; background: var(--blue); }
.before .bar i { background: #f0b890; }
.before .bar b { background: var(--vermilion); }
.arrow { align-self: center; font-size: 26px; color: #9aa7b3; }
.verdict { flex: 1 1 270px; align-self: center; padding-left: 10px; font-size: 15px; }
.verdict p { margin: 0 0 8px; color: var(--soft); }
.verdict .what { color: var(--ink); font-weight: 600; }
section, details { background: var(--paper); border: 1px solid var(--line); border-radius: 8px;
  padding: 22px 24px; margin: 16px 0; }
summary { cursor: pointer; font-weight: 600; }
details { padding: 14px 24px; }
section details { border: 0; padding: 0; margin: 14px 0 0; }
details[open] summary { margin-bottom: 14px; }
figure { margin: 0; }
figure img { display: block; width: 100%; height: auto; }
figcaption { margin-top: 12px; font-size: 14px; color: var(--soft); max-width: 84ch; }
.command { margin: 0 0 14px; padding: 13px 16px; border-radius: 6px; background: #1f2933;
  color: #eef3f7; font: 13.5px/1.55 ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono",
  monospace; white-space: pre-wrap; overflow-wrap: anywhere; user-select: all; }
.videos { display: flex; flex-wrap: wrap; gap: 24px; justify-content: center; }
.videos figure { flex: 1 1 300px; max-width: 400px; }
.videos video { display: block; width: 100%; border-radius: 6px; border: 1px solid var(--line);
  background: #fff; }
.videos figcaption { text-align: center; font-weight: 600; }
.videos .before { color: #b34f00; }
.videos .after { color: var(--blue); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: 14px;
  font-variant-numeric: tabular-nums; }
th { font-weight: 600; color: var(--soft); font-size: 13px; }
th, td { text-align: right; padding: 6px 10px; border-bottom: 1px solid #edf1f4;
  overflow-wrap: anywhere; }
thead th { border-bottom: 1px solid #c5ced6; }
tbody tr:last-child td { border-bottom: 0; }
th.text, td.text { text-align: left; }
tr.gained td { background: #eaf6f1; }
tr.lost td { background: #fdf0e6; }
.yes { color: var(--green); }
.no { color: #b34f00; }
.tag { margin-left: 6px; padding: 1px 8px; border-radius: 9px; font-size: 12px; font-weight: 600;
  color: #fff; background: var(--blue); }
.tag.before { background: #b34f00; }
.note, .good { margin: 0; padding: 10px 14px; border-radius: 6px; font-size: 14.5px;
  background: #fdf4e3; border-left: 4px solid #E69F00; }
.good { background: #eaf6f1; border-left-color: #009E73; }
header .note { margin-bottom: 16px; }
code { font: 13px ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace; }
.boxes { display: grid; grid-template-columns: repeat(auto-fit, minmax(330px, 1fr)); gap: 28px; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 4px 18px; margin: 0;
  font-size: 14px; }
dt { color: var(--soft); }
dd { margin: 0; overflow-wrap: anywhere; }
@media print { body { background: #fff; } section, details { break-inside: avoid; } }
"""
