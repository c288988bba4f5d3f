// Checks the dashboards against Grafana's own schema, which it publishes as TypeScript: each dashboard becomes a literal of its
// type, so that a missing, a misspelled and an unknown field are errors of the compiler. Called by tests/it/watch.rs.

import fs from "node:fs";
import path from "node:path";
import { fileURLToPath } from "node:url";
import ts from "typescript";

const here = path.dirname(fileURLToPath(import.meta.url));
const folder = path.join(here, "../../dashboards");

// The names under which the options and the field configuration of each kind of panel are described.
const KINDS = {
  bargauge: "BarGauge",
  heatmap: "Heatmap",
  stat: "Stat",
  "state-timeline": "StateTimeline",
  timeseries: "TimeSeries",
};

/** The module of a kind, and whether it has a field configuration of its own. */
function described(kind) {
  const name = KINDS[kind];
  if (!name) throw new Error(`panels of type ${kind} are not checked: add them to KINDS in ${import.meta.filename}`);
  const module = `@grafana/schema/dist/esm/raw/composable/${kind.replace("-", "")}/panelcfg/x/${name}PanelCfg_types.gen`;
  const text = fs.readFileSync(path.join(here, "node_modules", `${module}.d.ts`), "utf8");
  return { module, hasFields: text.includes("interface FieldConfig") };
}

function source(dashboard) {
  const lines = [
    'import type { Dashboard, Panel, RowPanel } from "@grafana/schema";',
    // Enums are written as their values in JSON.
    "type Json<T> = T extends string ? `${T}` : T extends number | boolean | null | undefined ? T",
    "  : T extends (infer U)[] ? Json<U>[] : unknown extends T ? T : { [K in keyof T]: Json<T[K]> };",
    "const literal = <T,>(value: Json<T>) => value;",
  ];
  const { panels, ...rest } = structuredClone(dashboard);
  for (const annotation of rest.annotations.list) {
    // Prometheus's own, which Grafana's schema leaves to each data source.
    delete annotation.target;
    delete annotation.titleFormat;
    delete annotation.useValueForTime;
  }
  lines.push(`literal<Omit<Dashboard, "panels">>(${JSON.stringify(rest)});`);
  // One by one, so that an error says which.
  for (const panel of panels) {
    if (panel.type === "row") {
      lines.push(`literal<RowPanel>(${JSON.stringify(panel)});`);
      continue;
    }
    const { module, hasFields } = described(panel.type);
    const custom = panel.fieldConfig.defaults.custom;
    const title = `/* "title":${JSON.stringify(panel.title)} */`;
    lines.push(`literal<Panel>(${JSON.stringify(panel)});`);
    lines.push(`${title} literal<import("${module}").Options>(${JSON.stringify(panel.options)});`);
    if (hasFields && custom) {
      lines.push(`${title} literal<Partial<import("${module}").FieldConfig>>(${JSON.stringify(custom)});`);
    }
  }
  return lines.join("\n");
}

/** The compiler's findings for each text, by its name. */
function faults(texts) {
  const options = {
    strict: true,
    noEmit: true,
    skipLibCheck: true,
    types: [],
    target: ts.ScriptTarget.ES2022,
    module: ts.ModuleKind.NodeNext,
    moduleResolution: ts.ModuleResolutionKind.NodeNext,
  };
  // Beside node_modules by name only: they are never written.
  const files = new Map(Object.entries(texts).map(([name, text]) => [path.join(here, `${name}.mts`), text]));
  const host = ts.createCompilerHost(options);
  const { readFile, fileExists, getSourceFile } = host;
  host.readFile = (file) => files.get(file) ?? readFile.call(host, file);
  host.fileExists = (file) => files.has(file) || fileExists.call(host, file);
  host.getSourceFile = (file, ...more) =>
    files.has(file)
      ? ts.createSourceFile(file, files.get(file), options.target, true)
      : getSourceFile.call(host, file, ...more);
  const said = Object.fromEntries(Object.keys(texts).map((name) => [name, []]));
  for (const fault of ts.getPreEmitDiagnostics(ts.createProgram([...files.keys()], options, host))) {
    const name = path.basename(fault.file?.fileName ?? "", ".mts");
    const line = fault.file?.getLineAndCharacterOfPosition(fault.start ?? 0).line ?? 0;
    const title = /"title":"([^"]*)"/.exec(texts[name]?.split("\n")[line] ?? "")?.[1] ?? `line ${line}`;
    const sentence = `${name}: ${title}: ${ts.flattenDiagnosticMessageText(fault.messageText, "\n  ")}`;
    (said[name] ?? (said[name] = [])).push(sentence);
  }
  return said;
}

const texts = {};
for (const name of ["postbell-broker", "postbell-mesh"]) {
  const dashboard = JSON.parse(fs.readFileSync(path.join(folder, `${name}.json`), "utf8"));
  texts[name] = source(dashboard);
  // The check itself: a field that Grafana does not know, and a value that it does not take.
  const broken = structuredClone(dashboard);
  broken.panels[1].gridPosition = {};
  broken.panels[2].options.colorMode = "backgrond";
  texts[`${name}-broken`] = source(broken);
}
const said = faults(texts);
const found = Object.entries(said).flatMap(([name, sentences]) => (name.endsWith("-broken") ? [] : sentences));
for (const [name, sentences] of Object.entries(said)) {
  if (name.endsWith("-broken") && sentences.length < 2) found.push(`${name}: the check does not see what is wrong with it`);
}
if (found.length > 0) {
  console.error(found.join("\n"));
  process.exit(1);
}
console.log("the dashboards are of Grafana's schema");
