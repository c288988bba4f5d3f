// The places of the picture, without a browser: nothing lies upon another, everybody has a place, in any width.

import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";

const source = await readFile(new URL("../../src/watch/http/page/layout.js", import.meta.url), "utf8");
const { layout } = await import(`data:text/javascript,${encodeURIComponent(source)}`);

const STANDINGS = ["ok", "late", "stranded", "error", "offline", "disabled"];

function mesh(...sizes) {
  const environments = [];
  const agents = [];
  sizes.forEach((size, index) => {
    const environment = { environment: `e${index}`, agents: size };
    STANDINGS.forEach((standing) => (environment[standing] = 0));
    for (let n = 0; n < size; n += 1) {
      const standing = n % 40 === 7 ? "stranded" : "ok";
      environment[standing] += 1;
      agents.push({ agent: `a${index}-${n}`, environment: environment.environment, standing, dead: 0 });
    }
    environments.push(environment);
  });
  return { environments, agents };
}

const apart = (a, b) => a.x + a.width <= b.x + 0.01 || b.x + b.width <= a.x + 0.01 || a.y + a.height <= b.y + 0.01 || b.y + b.height <= a.y + 0.01;
const within = (a, b) => a.x >= b.x && a.y >= b.y && a.x + a.width <= b.x + b.width + 0.01 && a.y + a.height <= b.y + b.height + 0.01;

export function layoutHolds() {
  for (const sizes of [[1], [3], [5, 1], [7, 7, 3, 3], [18, 19, 240, 241], [1, 1, 1, 1, 1, 1, 1, 1, 1], [900]]) {
    for (const width of [320, 390, 619, 620, 800, 1300]) {
      const told = `${sizes} at ${width}`;
      const { groups, height, hub } = layout(mesh(...sizes), width);
      assert.equal(groups.length, sizes.length, told);
      const round = { x: hub.x - hub.r, y: hub.y - hub.r, width: 2 * hub.r, height: 2 * hub.r };
      groups.forEach((box, index) => {
        assert.ok(box.x >= 0 && box.x + box.width <= width + 0.01 && box.y + box.height <= height + 0.01, told);
        assert.ok(apart(box, round), `${told}: the bell lies upon ${box.environment.environment}`);
        groups.slice(index + 1).forEach((other) => assert.ok(apart(box, other), told));
        const size = box.environment.agents;
        if (size <= 240) assert.equal(box.nodes.length, size, told);
        else assert.equal(box.shares.parts.reduce((sum, part) => sum + part.count, 0), size, told);
        if (size > 18) assert.ok(box.nodes.filter((node) => node.kind === "chip").length <= 6, told);
        box.nodes.forEach((node, n) => {
          assert.ok(within(node, box), `${told}: ${node.agent.agent} stands outside`);
          box.nodes.slice(n + 1, n + 60).forEach((other) => assert.ok(apart(node, other), told));
        });
      });
    }
  }
}
