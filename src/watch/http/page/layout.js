// The layout of the picture. Pure: from the mesh and a width to places, so that it can be tested alone.
//
// The bell is in the middle, since every message passes it; the environments stand to its sides, or below it where the screen
// is narrow. An environment shows its agents by name while they are few, as marks while they are many, and as shares when
// they are hundreds; those in trouble always have their names.

const GAP = 16;
const PAD = 14;
const HEAD = 44;
const CHIP = { height: 34, gap: 8, min: 150 };
const DOT = 22;
const NAMED_MAX = 18;
const DOTS_MAX = 240;
/** The most agents in trouble that are named in an environment with many. */
const TROUBLED_MAX = 6;
const HUB = { wide: 150, narrow: 96, radius: 30 };
/** Below this width the environments stand in one column. */
export const NARROW = 620;

const TROUBLE = new Set(["stranded", "late", "error"]);

/** The places of a whole mesh, `width` pixels wide. */
export function layout(mesh, width) {
  const groups = mesh.environments.map((environment) => ({
    environment,
    agents: mesh.agents.filter((agent) => agent.environment === environment.environment).sort(byName),
  }));
  return width < NARROW ? stacked(groups, width) : sided(groups, width);
}

const byName = (a, b) => a.agent.localeCompare(b.agent, "en");

function stacked(groups, width) {
  const hub = { x: width / 2, y: HUB.radius + 6, r: HUB.radius };
  let y = HUB.narrow;
  const placed = groups.map((group) => {
    const box = place(group, 0, y, width);
    y += box.height + GAP;
    return box;
  });
  for (const box of placed) box.port = { x: box.x + box.width / 2, y: box.y };
  return { width, height: Math.max(y - GAP, HUB.narrow), hub, groups: placed, narrow: true };
}

function sided(groups, width) {
  const one = groups.length < 2;
  const column = one ? width - HUB.wide : (width - HUB.wide) / 2;
  // The largest environment first, each to the shorter side; within a side in the order of names.
  const sides = [[], []];
  const heights = [0, 0];
  const sized = groups.map((group) => ({ group, height: place(group, 0, 0, column).height }));
  for (const { group, height } of [...sized].sort((a, b) => b.height - a.height)) {
    const side = one || heights[1] < heights[0] ? 1 : 0;
    sides[side].push(group);
    heights[side] += height + GAP;
  }
  const height = Math.max(...heights, 0) - GAP;
  const total = Math.max(height, 200);
  const boxes = [];
  sides.forEach((side, index) => {
    side.sort((a, b) => a.environment.environment.localeCompare(b.environment.environment, "en"));
    let y = (total - (heights[index] - GAP)) / 2;
    const x = index === 0 ? 0 : one ? HUB.wide : column + HUB.wide;
    for (const group of side) {
      const box = place(group, x, y, column);
      box.port = { x: index === 0 ? box.x + box.width : box.x, y: box.y + box.height / 2 };
      boxes.push(box);
      y += box.height + GAP;
    }
  });
  const hub = { x: one ? HUB.wide / 2 - 12 : width / 2, y: total / 2, r: HUB.radius + 4 };
  return { width, height: total, hub, groups: boxes, narrow: false };
}

/** An environment's box and what stands in it. */
function place({ environment, agents }, x, y, width) {
  const inner = width - 2 * PAD;
  const few = environment.agents <= NAMED_MAX;
  const named = few ? agents : agents.filter((a) => TROUBLE.has(a.standing) || a.dead > 0).slice(0, TROUBLED_MAX);
  const nodes = [];
  let top = y + HEAD;
  const columns = Math.max(1, Math.floor((inner + CHIP.gap) / (CHIP.min + CHIP.gap)));
  const chip = (inner - (columns - 1) * CHIP.gap) / columns;
  named.forEach((agent, index) => {
    const column = index % columns;
    const row = Math.floor(index / columns);
    nodes.push({
      agent,
      kind: "chip",
      x: x + PAD + column * (chip + CHIP.gap),
      y: top + row * (CHIP.height + CHIP.gap),
      width: chip,
      height: CHIP.height,
    });
  });
  if (named.length > 0) top += Math.ceil(named.length / columns) * (CHIP.height + CHIP.gap) - CHIP.gap;
  let shares = null;
  if (!few) {
    if (named.length > 0) top += CHIP.gap + 2;
    if (environment.agents <= DOTS_MAX) {
      const shown = new Set(named);
      const rest = agents.filter((agent) => !shown.has(agent));
      const across = Math.max(1, Math.floor(inner / DOT));
      rest.forEach((agent, index) => {
        nodes.push({
          agent,
          kind: "dot",
          x: x + PAD + (index % across) * DOT,
          y: top + Math.floor(index / across) * DOT,
          width: DOT,
          height: DOT,
        });
      });
      top += Math.ceil(rest.length / across) * DOT;
    } else {
      shares = { ...sharesOf(environment), x: x + PAD, y: top, width: inner, height: 14 };
      top += 14 + 24;
    }
  }
  return { environment, nodes, shares, x, y, width, height: top + PAD - y };
}

/** The number of agents in each standing, for an environment too large to draw each agent. */
function sharesOf(environment) {
  const order = ["ok", "late", "stranded", "error", "offline", "disabled"];
  const parts = order.map((standing) => ({ standing, count: environment[standing] })).filter((part) => part.count > 0);
  return { parts, all: environment.agents };
}

/** The middle of a place. */
export const middle = (place) => ({ x: place.x + place.width / 2, y: place.y + place.height / 2 });
