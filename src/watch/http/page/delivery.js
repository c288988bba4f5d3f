// Delivery time over the last hour: a column for each minute, a row for each bucket of the histogram, darker for a larger share
// of the minute's deliveries. The target is a bound of the histogram, so exactly the deliveries above its line missed it.

import { fill, h, s } from "./dom.js";
import { count, milliseconds, percent } from "./words.js";

const MINUTES = 60;
const ROW = 16;
const LEFT = 52;
const TOP = 14;
const BOTTOM = 22;
/** The bounds whose line has a word. */
const WORDS = new Map([[1, "1 ms"], [10, "10 ms"], [100, "100 ms"], [1000, "1 s"]]);

export function delivery(figure) {
  let last = null;
  const draw = () => last && show(figure, last);
  new ResizeObserver(draw).observe(figure);
  return (mesh) => {
    last = mesh.delivery;
    draw();
  };
}

function show(figure, { minutes, bounds_ms: bounds, target_ms: target, ...sums }) {
  const width = Math.floor(figure.clientWidth);
  if (width === 0) return;
  const rows = bounds.length + 1;
  const height = TOP + rows * ROW + BOTTOM;
  const column = (width - LEFT) / MINUTES;
  const top = (row) => TOP + (rows - 1 - row) * ROW;
  const targetRow = bounds.findIndex((bound) => bound >= target);
  const cells = minutes.flatMap((counts, index) => {
    const all = counts.reduce((sum, n) => sum + n, 0);
    const x = LEFT + (MINUTES - minutes.length + index) * column;
    return counts.map((n, row) => n > 0 && s("rect", {
      class: "cell",
      x: x + 0.5,
      y: top(row) + 0.5,
      width: Math.max(column - 1, 1),
      height: ROW - 1,
      rx: 1.5,
      // Even one of a thousand must be visible.
      "fill-opacity": 0.28 + 0.72 * Math.sqrt(n / all),
      "data-late": row > targetRow,
    }));
  });
  const lines = bounds.map((bound, row) => [bound, top(row)]).filter(([bound]) => WORDS.has(bound)).map(([bound, y]) => [
    s("line", { class: "grid", x1: LEFT, x2: width, y1: y, y2: y }),
    s("text", { x: LEFT - 8, y: y + 4, "text-anchor": "end" }, WORDS.get(bound)),
  ]);
  const at = top(targetRow);
  const ticks = [60, 45, 30, 15, 0].map((ago) => s(
    "text",
    {
      x: LEFT + (MINUTES - ago) * column,
      y: height - 5,
      "text-anchor": ago === 0 ? "end" : ago === 60 ? "start" : "middle",
    },
    ago === 0 ? "now" : `${ago} min ago`,
  ));
  const few = width < 420;
  fill(
    figure,
    s(
      "svg",
      { viewBox: `0 0 ${width} ${height}`, height, "aria-hidden": "true" },
      s("line", { class: "grid", x1: LEFT, x2: width, y1: top(0) + ROW, y2: top(0) + ROW }),
      lines.flat(),
      cells,
      s("line", { class: "target", x1: LEFT, x2: width, y1: at, y2: at }),
      s("text", { class: "target-word", x: LEFT - 8, y: at + 4, "text-anchor": "end" }, `${target / 1000} s`),
      few ? [ticks[0], ticks[4]] : ticks,
    ),
    h("figcaption", {}, caption(sums, target)),
  );
}

function caption({ count: all, within_target: kept, p50_ms: half, p99_ms: most }, target) {
  const goal = `The line is the target: ${target / 1000} s, whatever fails.`;
  if (all === 0) return `Nothing was delivered in the last hour. ${goal}`;
  return [
    h("strong", {}, percent(kept, all)),
    ` of ${count(all)} within ${target / 1000} s; half within `,
    h("strong", {}, milliseconds(half)),
    ", 99 % within ",
    h("strong", {}, milliseconds(most)),
    `. ${goal}`,
  ];
}
