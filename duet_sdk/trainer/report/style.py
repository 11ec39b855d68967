"""How the page looks, in light and in dark."""

STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --paper: #ffffff; --grid: #d8dee4; --soft: #57606a;
  --c0: #0969da; --c1: #bc4c00; --c2: #1a7f37; --c3: #8250df; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6edf3; --paper: #0d1117; --grid: #30363d; --soft: #9198a1;
  --c0: #58a6ff; --c1: #f0883e; --c2: #3fb950; --c3: #bc8cff; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); margin: 2rem auto;
  max-width: 1340px; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2rem; }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(320px, 1fr)); gap: 1rem; margin-top: 1.5rem; }
figure { margin: 0; border: 1px solid var(--grid); border-radius: 6px; padding: .6rem; }
figcaption { font-weight: 600; }
svg { width: 100%; height: auto; } svg text { font-size: 10px; fill: var(--soft); }
.grid { stroke: var(--grid); stroke-width: 1; } .line { fill: none; stroke-width: 1.5; }
.line.c0 { stroke: var(--c0); } .line.c1 { stroke: var(--c1); } .line.c2 { stroke: var(--c2); }
.line.c3 { stroke: var(--c3); } .line.c1, .line.c3 { stroke-dasharray: 5 3; }
.dot.c0 { fill: var(--c0); } .dot.c1 { fill: var(--c1); } .dot.c2 { fill: var(--c2); } .dot.c3 { fill: var(--c3); }
.legend { display: flex; flex-wrap: wrap; gap: .1rem .9rem; list-style: none; margin: 0; padding: 0; font-size: 12px; }
.key { display: inline-block; width: .7rem; height: .7rem; border-radius: 2px; margin-right: .3rem; }
.key.c0 { background: var(--c0); } .key.c1 { background: var(--c1); } .key.c2 { background: var(--c2); }
.key.c3 { background: var(--c3); }
table { border-collapse: collapse; font-size: 13px; } td, th { border: 1px solid var(--grid); padding: .25rem .5rem;
  text-align: left; vertical-align: top; }
.wide { overflow-x: auto; } .samples span { display: block; max-width: 26rem; max-height: 12rem; overflow: auto;
  white-space: pre-wrap; overflow-wrap: anywhere; }
pre { overflow-x: auto; font-size: 12px; }
"""
