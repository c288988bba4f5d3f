// The status page in a real browser: `npm test`. Pictures of each scene are left in shots/, to be looked at.
//
// PAGE_FROM_DISK=1 takes the page from its folder instead of the broker.
//
// Needs Chromium (CHROMIUM, else /usr/bin/chromium), psql, and the broker (POSTBELL_BIN, else target/debug/postbell).

import assert from "node:assert/strict";
import { mkdir, readFile } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import { chromium } from "playwright-core";
import { accessible, fits, tabOrder, watch } from "./checks.mjs";
import { layoutHolds } from "./layout.mjs";
import { start } from "./mesh.mjs";
import { busy, empty, idle, large, onFire } from "./scenes.mjs";

const BINARY = process.env.POSTBELL_BIN ?? fileURLToPath(new URL("../../target/debug/postbell", import.meta.url));
const SHOTS = fileURLToPath(new URL("shots/", import.meta.url));
const FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"];
const DISK = process.env.PAGE_FROM_DISK === "1";
const TOKEN = { operator: "an operator's token of a test", viewer: "a viewer's token of a test" };
const WIDE = { width: 1360, height: 900 };
const NARROW = { width: 390, height: 844 };
/** No event takes so long unless it never comes. */
const PATIENCE = { timeout: 60_000 };

await mkdir(SHOTS, { recursive: true });
layoutHolds();
const mesh = await start(BINARY, TOKEN);
const browser = await chromium.launch({ executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium", args: FLAGS });
let failed = null;
try {
  await scenes();
} catch (error) {
  failed = error;
}
await browser.close();
await mesh.stop();
if (failed) {
  console.error(failed);
  process.exit(1);
}
console.log(`the page holds; pictures are in ${SHOTS}`);

/** A page that shows the mesh, and what watches it. */
async function open(options = {}, hash = "") {
  const context = await browser.newContext({ viewport: WIDE, colorScheme: "light", reducedMotion: "no-preference", ...options });
  if (DISK) await context.route(/\/(page\/.*)?$/, fromDisk);
  const page = await context.newPage();
  const watched = watch(page, mesh.http);
  await page.goto(`${mesh.http}/${hash}`);
  await page.locator("#live[data-state=live]").waitFor(PATIENCE);
  await page.locator("#verdict:not([data-level=unknown])").waitFor(PATIENCE);
  return { page, watched, close: () => context.close() };
}

/** The page as it is in the folder, under the headers of the broker: a change is seen without a build. */
async function fromDisk(route) {
  const response = await route.fetch();
  const name = new URL(route.request().url()).pathname.replace(/^\/(page\/)?/, "") || "index.html";
  await route.fulfill({ response, body: await readFile(new URL(`../../src/watch/http/page/${name}`, import.meta.url)) });
}

/** Waits until a text is there. */
async function says(page, text) {
  await page.getByText(text).first().waitFor(PATIENCE);
}

async function shot(page, name, whole = true) {
  // The page's head stays at the top of what is scrolled.
  await page.evaluate(() => window.scrollTo({ top: 0, behavior: "instant" }));
  await page.screenshot({ path: `${SHOTS}${name}.png`, fullPage: whole });
  await accessible(page, name);
  await fits(page, name);
  console.log(`  ${name}`);
}

async function scenes() {
  await empty(mesh);
  const first = await open();
  await says(first.page, "No agent is registered yet.");
  await shot(first.page, "empty");
  first.watched.clean();
  await first.close();

  await idle(mesh);
  const quiet = await open();
  await says(quiet.page, "All is well, and nothing is on its way.");
  await shot(quiet.page, "idle");
  quiet.watched.clean();
  await quiet.close();

  await atWork();
  await inTrouble();
  await asOperator();

  await large(mesh);
  const crowd = await open();
  await says(crowd.page, "300");
  await crowd.page.locator(".node").nth(250).waitFor(PATIENCE);
  await shot(crowd.page, "large");
  await crowd.page.setViewportSize(NARROW);
  await shot(crowd.page, "large-narrow");
  crowd.watched.clean();
  await crowd.close();

  await alone();
}

async function atWork() {
  const stop = await busy(mesh);
  const { page, watched, close } = await open();
  await page.locator(".message").first().waitFor({ state: "attached", ...PATIENCE });
  await page.locator(".stream li").nth(10).waitFor(PATIENCE);
  // Until the list of the last hour has something of it.
  await page.waitForFunction(() => document.querySelectorAll(".chart .cell").length > 0, null, PATIENCE);
  await page.waitForTimeout(6_000);
  await shot(page, "busy");
  await page.locator("#theme").click();
  await page.locator("#theme").click();
  assert.equal(await page.locator("html").getAttribute("data-theme"), "dark");
  await page.waitForTimeout(800);
  await shot(page, "busy-dark");
  await page.setViewportSize(NARROW);
  await page.waitForTimeout(1_200);
  await shot(page, "busy-dark-narrow");
  watched.clean();
  await close();

  const calm = await open({ reducedMotion: "reduce" });
  await calm.page.locator(".stream li").nth(5).waitFor(PATIENCE);
  assert.equal(await calm.page.locator(".message").count(), 0, "nothing moves where motion is unwelcome");
  calm.watched.clean();
  await calm.close();
  await stop();
}

async function inTrouble() {
  await onFire(mesh);
  const { page, watched, close } = await open();
  await says(page, "Some things need you now.");
  for (const text of ["are offline while 56 messages wait", "12 dead letters", "validaton-agent"]) await says(page, text);
  await page.waitForTimeout(6_000);
  await shot(page, "fire");
  await keyboard(page);
  await page.goto(`${mesh.http}/#agent/geocoder`);
  await page.locator("#detail .life").first().waitFor(PATIENCE);
  await shot(page, "agent", false);
  assert.equal(await page.locator("#detail details.payload").count(), 0, "without a token there are no payloads");
  await page.keyboard.press("Escape");
  await page.setViewportSize(NARROW);
  await page.waitForTimeout(500);
  await shot(page, "fire-narrow");
  watched.clean();
  await close();
}

/** Every control is reached, and an agent is opened and left, without a mouse. */
async function keyboard(page) {
  const order = await tabOrder(page);
  const nodes = await page.evaluate(() => [...document.querySelectorAll(".node[tabindex='0']")].map((node) => node.getAttribute("data-key")));
  assert.equal(nodes.length, 4, "one stop for each environment");
  for (const stop of ["theme", "who", "agents-filter", "passing-pause", "enter", "row geocoder", ...nodes]) {
    assert.ok(order.includes(stop), `the tabulator never comes to ${stop}: ${order.join(", ")}`);
  }
  const start = page.locator(`.node[data-key="${nodes[0]}"]`);
  await start.focus();
  await page.keyboard.press("ArrowRight");
  const next = await page.evaluate(() => document.activeElement.getAttribute("data-key"));
  assert.notEqual(next, nodes[0], "an arrow goes to the next agent");
  await page.keyboard.press("Enter");
  await page.locator("#detail[open]").waitFor(PATIENCE);
  assert.equal(await page.locator("#detail-title").textContent(), next);
  await page.keyboard.press("Escape");
  await page.locator("#detail:not([open])").waitFor({ state: "attached", ...PATIENCE });
}

async function asOperator() {
  const letters = () => mesh.sql("select count(*) from postbell.deliveries where state = 'dead'").then(Number);
  const before = await letters();
  // Without a token, with a viewer's, and by another site's form.
  const refused = async (headers) => (await fetch(`${mesh.http}/api/dead/redrive`, { method: "POST", body: '{"inbox": "geocoder"}', headers })).status;
  assert.equal(await refused({ "content-type": "application/json" }), 401);
  assert.equal(await refused({ "content-type": "application/json", authorization: `Bearer ${TOKEN.viewer}` }), 403);
  assert.equal(await refused({ "content-type": "text/plain", authorization: `Bearer ${TOKEN.operator}` }), 415);
  assert.equal(await letters(), before, "nothing was redriven");

  const { page, watched, close } = await open();
  await page.locator("#who").click();
  await page.locator("#ask-token").fill("a token that is none");
  await page.keyboard.press("Enter");
  await says(page, "This token is none of this broker's");
  await shot(page, "token", false);
  await page.locator("#ask-token").fill(TOKEN.viewer);
  await page.keyboard.press("Enter");
  await says(page, "To redrive or purge takes an operator's token.");
  await says(page, "<script>alert('reason')</script> is no JSON");
  await page.locator("#who").click();
  await page.locator("#ask-token").fill(TOKEN.operator);
  await page.keyboard.press("Enter");
  await page.locator("[data-key='choose all']").waitFor(PATIENCE);
  assert.ok(!(await page.content()).includes(TOKEN.operator), "the token is not in the page");

  const three = page.locator("#dead tbody input[type=checkbox]");
  for (const index of [0, 1, 2]) await three.nth(index).check();
  await page.locator("#dead details.payload summary").first().click();
  await page.locator("#dead details.payload pre", { hasText: "onerror=alert(1)" }).first().waitFor(PATIENCE);
  await shot(page, "dead");
  await page.locator("[data-key=redrive]").click();
  await says(page, "3 letters redriven.");
  await mesh.until(`select count(*) = ${before - 3} from postbell.deliveries where state = 'dead'`);
  await three.first().check();
  await page.locator("[data-key=purge]").click();
  await page.locator("#sure[open]").waitFor(PATIENCE);
  await page.keyboard.press("Escape");
  assert.equal(await letters(), before - 3, "nobody said yes");
  await page.locator("[data-key=purge]").click();
  await page.locator("#sure-yes").click();
  await says(page, "1 letter purged.");
  assert.equal(await letters(), before - 4);
  // The wrong token that was tried: a browser logs its refusal.
  watched.expected(/401/);
  watched.clean();
  await close();

  // A link with a token: it is taken out of the address.
  const linked = await open({}, `#token=${encodeURIComponent(TOKEN.operator)}`);
  await linked.page.locator("#who", { hasText: "Operator" }).waitFor(PATIENCE);
  assert.equal(linked.page.url(), `${mesh.http}/`);
  linked.watched.clean();
  await linked.close();
}

/** The broker goes away, and the page says so. */
async function alone() {
  await idle(mesh);
  const { page, watched, close } = await open();
  watched.expected(/ERR_CONNECTION|ERR_INCOMPLETE|ERR_EMPTY|Failed to load/);
  await mesh.stop();
  await page.locator("#lost:not([hidden])").waitFor(PATIENCE);
  await says(page, "The broker cannot be reached.");
  await page.screenshot({ path: `${SHOTS}disconnected.png` });
  console.log("  disconnected");
  watched.clean();
  await close();
}
