// The style sheet of the page that `stats --html` writes: every colour once for light and once for dark.
#pragma once

namespace polykv::cli {

// b1 to b8 and bF: the shades of 1 to 8 bits and float16, less to more; d and e: digits on the light and the dark of
// them. k1 to k6: the shades of how much is kept; the page's own text is read on them.
inline constexpr const char* kPageStyle = R"(
:root { color-scheme: light dark; --paper: #ffffff; --ink: #1b2229; --soft: #5b6670; --rule: #dfe4e8; --keys: #2b6cb0;
  --values: #d0782a; --pool: #b3261e; --b0: #f3f5f7; --b1: #e6eff8; --b2: #cfe1f2; --b3: #aacde9; --b4: #7eb3dc;
  --b5: #4a8fc7; --b6: #2b6fad; --b7: #154f8a; --b8: #0a3463; --bF: #041d3a; --d: #10202e; --e: #ffffff;
  --k1: #eef3f9; --k2: #d5e2ef; --k3: #bbd0e6; --k4: #a0bddb; --k5: #86abd2; --k6: #6b98c8; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #14181c; --ink: #e3e7ea; --soft: #9aa5ae; --rule: #2d353c; --keys: #5b9bdb; --values: #e2954f;
    --pool: #ff8a80; --b0: #1a1f24; --b1: #1b2a38; --b2: #1d3a54; --b3: #214b71; --b4: #275f92; --b5: #4f8fc4;
    --b6: #7db0da; --b7: #acd0ec; --b8: #d6e9f7; --bF: #ffffff; --d: #e8f0f7; --e: #0c1a28;
    --k1: #1b252f; --k2: #223242; --k3: #293f55; --k4: #314e6a; --k5: #395c7f; --k6: #416b94; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 24px 20px 48px; max-width: 860px; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.7em; margin: 0.4em 0 0.2em; overflow-wrap: anywhere; }
h2 { font-size: 1.2em; margin: 2.2em 0 0.4em; border-top: 1px solid var(--rule); padding-top: 1.2em; }
dl { display: grid; grid-template-columns: repeat(auto-fill, minmax(180px, 1fr)); gap: 14px 20px; margin: 1.2em 0 0; }
dt, figcaption, .legend, footer, .tick, .name { color: var(--soft); fill: var(--soft); }
dt, figcaption, .legend, footer { font-size: 0.87em; }
dd { margin: 0; overflow-wrap: anywhere; font-variant-numeric: tabular-nums; }
figure { margin: 0.8em 0; overflow-x: auto; }
figcaption { margin-bottom: 2px; }
figure svg { display: block; width: 100%; min-width: 560px; height: auto; }
.legend { display: flex; flex-wrap: wrap; align-items: center; gap: 4px 18px; margin: 0.6em 0; }
.legend svg { vertical-align: -2px; }
.mark { width: 20px; height: 14px; }
.swatch { width: 22px; height: 18px; margin-right: -18px; }
.swatch:last-of-type { margin-right: 0; }
.missing { color: var(--soft); font-style: italic; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: 0.9em; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: 5px 12px 5px 0; border-bottom: 1px solid var(--rule); white-space: nowrap; }
th { font-weight: 600; }
thead th { color: var(--soft); font-weight: 400; vertical-align: bottom; }
th:first-child, .protocol td { text-align: left; }
.protocol td { white-space: normal; overflow-wrap: anywhere; }
details { margin-top: 1em; }
summary { cursor: pointer; }
footer { margin-top: 3em; overflow-wrap: anywhere; }
svg text { font: 12px system-ui, sans-serif; }
svg text.label { fill: var(--ink); stroke: var(--paper); stroke-width: 4; paint-order: stroke; }
svg text.cell { font-size: 11.5px; }
.grid { stroke: var(--rule); }
.axis { stroke: var(--soft); }
rect.keys { fill: var(--keys); }
rect.values { fill: var(--values); }
circle.measured { fill: var(--keys); fill-opacity: 0.55; }
line.measured { stroke: var(--pool); stroke-width: 1.5; }
line.mean { stroke: var(--values); stroke-width: 1.5; stroke-dasharray: 5 4; }
polyline.best, line.best { fill: none; stroke: var(--keys); stroke-width: 2; }
circle.best { fill: var(--keys); }
circle.preset { fill: var(--values); }
.chosen { fill: none; stroke: var(--pool); stroke-width: 2.5; }
.ring { fill: none; stroke: var(--pool); stroke-width: 2; }
rect.b0 { fill: var(--b0); } rect.b1 { fill: var(--b1); } rect.b2 { fill: var(--b2); } rect.b3 { fill: var(--b3); }
rect.b4 { fill: var(--b4); } rect.b5 { fill: var(--b5); } rect.b6 { fill: var(--b6); } rect.b7 { fill: var(--b7); }
rect.b8 { fill: var(--b8); } rect.bF { fill: var(--bF); }
text.cell { fill: var(--d); }
text.b5, text.b6, text.b7, text.b8, text.bF { fill: var(--e); }
rect.k0 { fill: none; stroke: var(--rule); } rect.k1 { fill: var(--k1); } rect.k2 { fill: var(--k2); } rect.k3 { fill: var(--k3); }
rect.k4 { fill: var(--k4); } rect.k5 { fill: var(--k5); } rect.k6 { fill: var(--k6); }
.text { white-space: pre-wrap; overflow-wrap: anywhere; margin: 0.6em 0; line-height: 1.7; print-color-adjust: exact; }
.text span { padding: 0.15em 0; }
.k1 { background: var(--k1); } .k2 { background: var(--k2); } .k3 { background: var(--k3); }
.k4 { background: var(--k4); } .k5 { background: var(--k5); } .k6 { background: var(--k6); }
s.k0 { color: var(--soft); }
text.k0 { text-decoration: line-through; }
)";

}  // namespace polykv::cli
