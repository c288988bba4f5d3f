// The broker on Railway, as infrastructure as code: `railway config plan`, then `railway config apply`. docs/railway.md.
//
// The field names are those of the types in the npm package `railway` 3.11 (`railway/iac`); .ci/deploy-files compiles this
// file against them. railway.json says the same for services that still read it: Railway stops reading that on 2026-12-01.
import { defineRailway, github, preserve, project, service } from "railway/iac";

// Only what is named here is this file's: without a name, `apply` would take everything else in the project for gone.
export const partial = "postbell";

// The agents' port. Railway's TCP proxy leads here and ends no TLS: the broker speaks it itself.
const AGENTS_PORT = 7440;
// Railway asks for health here; the broker takes PORT for its metrics and health.
const HTTP_PORT = 9440;

// Your fork, as owner/name; without it `railway up` deploys this folder.
const repository = process.env.POSTBELL_REPOSITORY;

export default defineRailway((ctx) => {
  const broker = service("postbell", {
    ...(repository ? { source: github(repository, { branch: "main" }) } : {}),
    build: { builder: "DOCKERFILE", dockerfilePath: "Dockerfile" },
    // In a container of its own, before the new version starts; if it fails, the old one goes on.
    preDeploy: "/postbell migrate",
    healthcheck: "/health/ready",
    healthcheckTimeout: 60,
    tcp: [AGENTS_PORT],
    deploy: {
      // A broker that ends is started again, also after status 0.
      restartPolicyType: "ALWAYS",
      // The old one stays until the new one is known to the proxy, then has this long to send its agents away, one after
      // the other. The default is to kill it at once. POSTBELL_DRAIN_SECONDS must be less.
      overlapSeconds: 10,
      drainingSeconds: 30,
      // Supabase's direct connection has an IPv6 address only.
      ipv6EgressEnabled: true,
      limitOverride: { containers: { memoryBytes: 512_000_000 } },
    },
    env: {
      PORT: String(HTTP_PORT),
      POSTBELL_LISTEN: `[::]:${AGENTS_PORT}`,
      POSTBELL_NAME: `postbell-${ctx.environment ?? "production"}`,
      POSTBELL_DRAIN_SECONDS: "20",
      POSTBELL_LOG_FORMAT: "json",
      // Set once by `railway variable set`, and kept as they are there: a password, a certificate and its key.
      DATABASE_URL: preserve(),
      POSTBELL_TLS_CERT: preserve(),
      POSTBELL_TLS_KEY: preserve(),
    },
  });
  return project(ctx.projectName ?? "postbell", { resources: [broker] });
});
