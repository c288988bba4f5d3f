// Conditions that must hold of the page, whatever it shows.

import { readFile } from "node:fs/promises";
import { createRequire } from "node:module";

const axe = await readFile(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");

/** Watches a page: what it logs, whom it asks, what opens. Gives a function that throws if something is not as it should be. */
export function watch(page, origin) {
  const faults = [];
  page.on("console", (message) => message.type() === "error" && faults.push(`console: ${message.text()}`));
  page.on("pageerror", (error) => faults.push(`error: ${error.stack}`));
  page.on("dialog", (dialog) => {
    faults.push(`a dialog of the browser: ${dialog.message()}`);
    dialog.dismiss();
  });
  page.on("request", (request) => {
    if (new URL(request.url()).origin !== origin) faults.push(`asked ${request.url()}`);
  });
  let expected = null;
  return {
    clean() {
      const left = faults.filter((fault) => !expected?.test(fault));
      if (left.length > 0) throw new Error(left.join("\n"));
    },
    /** A browser logs what a test does on purpose. */
    expected(pattern) {
      expected = pattern;
    },
  };
}

/** No violation that keeps somebody out. */
export async function accessible(page, where) {
  const found = await audit(page);
  const serious = found.violations.filter((violation) => ["serious", "critical"].includes(violation.impact));
  if (serious.length > 0) {
    const told = serious.map((v) => `${v.id}: ${v.help}\n${v.nodes.slice(0, 4).map((n) => `    ${n.target.join(" ")}  ${n.failureSummary?.replaceAll("\n", " ")}`).join("\n")}`);
    throw new Error(`${where}: axe found\n${told.join("\n")}`);
  }
  return found.violations.map((violation) => violation.id);
}

/** Runs axe by the debugger, which may what the page's policy forbids. */
async function audit(page) {
  const session = await page.context().newCDPSession(page);
  const evaluate = async (expression) => {
    const { result, exceptionDetails } = await session.send("Runtime.evaluate", { expression, awaitPromise: true, returnByValue: true, allowUnsafeEvalBlockedByCSP: true });
    if (exceptionDetails) throw new Error(exceptionDetails.exception?.description ?? exceptionDetails.text);
    return result.value;
  };
  await evaluate(axe);
  const found = await evaluate(`axe.run(document, { resultTypes: ["violations"] }).then(({ violations }) => ({ violations }))`);
  await session.detach();
  return found;
}

/** Everything that can be focused by the tabulator, in its order, as words. */
export async function tabOrder(page, most = 400) {
  await page.evaluate(() => {
    document.activeElement?.blur();
    window.scrollTo(0, 0);
  });
  const seen = [];
  for (let n = 0; n < most; n += 1) {
    await page.keyboard.press("Tab");
    const word = await page.evaluate(() => {
      const { activeElement: at } = document;
      if (!at || at === document.body) return null;
      const box = at.getBoundingClientRect();
      const words = at.id || at.getAttribute("data-key") || at.textContent.trim();
      return { word: words, seen: box.width > 0 && box.height > 0 };
    });
    if (word === null || (seen.length > 0 && word.word === seen[0].word)) break;
    seen.push(word);
  }
  const hidden = seen.filter((one) => !one.seen);
  if (hidden.length > 0) throw new Error(`the focus goes where nothing is seen: ${hidden.map((one) => one.word).join(", ")}`);
  return seen.map((one) => one.word);
}

/** Nothing is wider than the screen. */
export async function fits(page, where) {
  const over = await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
  if (over > 0) throw new Error(`${where}: the page is ${over} pixels wider than the screen`);
}
