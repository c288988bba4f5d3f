# The broker as a container: one static binary on an image without shell or package manager. docs/railway.md, compose.yaml.
#
#   docker build -t postbell .                       the broker
#   docker build -t postbell-tools --target tools .  the same binary beside a shell, for scripts that are agents

# The compiler's own platform; glibc, because that is what the load test measures, and linked statically: nothing
# of the system is needed at run time but CA certificates and a resolver's settings.
FROM rust:1.95-bookworm AS build
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
WORKDIR /build
ENV RUSTFLAGS="-C target-feature=+crt-static"

# First the dependencies, from the manifests alone: this layer is built again only when one of them changes. Every
# member of the workspace must be there (tests/it/container.rs checks it), with something to compile.
COPY Cargo.toml Cargo.lock ./
COPY clients/rust/Cargo.toml clients/rust/
COPY crates/engine/Cargo.toml crates/engine/
COPY loadtest/Cargo.toml loadtest/
COPY tests/faults/Cargo.toml tests/faults/
# The target is named, so that the flag is for the binary and not for what runs during the build (macros are libraries).
RUN rustc -vV | sed -n 's/^host: //p' > target-triple \
 && mkdir -p src sql clients/rust/src crates/engine/src loadtest/src tests/it tests/faults/src/bin \
 && touch src/lib.rs clients/rust/src/lib.rs crates/engine/src/lib.rs tests/faults/src/lib.rs \
 && for main in sql/build.rs src/main.rs loadtest/src/main.rs tests/it/main.rs tests/faults/src/bin/soak.rs; do \
      echo 'fn main() {}' > "$main"; \
    done \
 && cargo build --release --locked --bin postbell --target "$(cat target-triple)"

COPY clients/rust/README.md clients/rust/
COPY clients/rust/src clients/rust/src
COPY crates/engine/README.md crates/engine/
COPY crates/engine/src crates/engine/src
COPY src src
COPY sql sql
COPY triggers triggers
# Newer than what the stubs were compiled to, whatever the time of the files.
RUN touch clients/rust/src/lib.rs crates/engine/src/lib.rs src/lib.rs src/main.rs sql/build.rs \
 && cargo build --release --locked --bin postbell --target "$(cat target-triple)" \
 && cp "target/$(cat target-triple)/release/postbell" /postbell \
 && strip /postbell \
 && /postbell --version

FROM debian:bookworm-slim AS tools
COPY --from=build /postbell /usr/local/bin/postbell
RUN useradd --create-home --uid 65532 postbell
USER 65532:65532
WORKDIR /home/postbell
ENTRYPOINT ["postbell"]
CMD ["--help"]

# Last, so that it is what is built when nothing else is asked for. CA certificates are in it, for sslmode=verify-full.
FROM gcr.io/distroless/static-debian12:nonroot
COPY --from=build /postbell /postbell
USER 65532:65532
# Within a container every address is meant. A token in clear is refused all the same, unless POSTBELL_ALLOW_PLAINTEXT=1.
ENV POSTBELL_LISTEN=[::]:7440 POSTBELL_HTTP=[::]:9440
EXPOSE 7440 9440
# Readiness: compose waits for it, and shows it. Docker itself restarts nothing for being unhealthy; where an orchestrator
# does, give it `health --live`, or it restarts a broker whose database is away.
HEALTHCHECK --interval=10s --timeout=5s --start-period=10s --retries=3 CMD ["/postbell", "health"]
ENTRYPOINT ["/postbell"]
CMD ["serve"]
