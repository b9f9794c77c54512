# The recipes of this repository; each also works without just.

# Everything that must hold before a change is merged.
ci:
    .ci/run

# Two clients on one machine, from registration to a stop of all servers.
demo:
    ./demo

# All roles in one process, nothing else installed.
run *arguments:
    cargo run --release -p mediator -- all {{arguments}}

# Every test that this machine can run; root adds real NATs.
test *arguments:
    ./test {{arguments}}

# The tests that need neither services nor root.
quick:
    cargo nextest run --workspace

# Real NATs in network namespaces, one test at a time (root).
netns *arguments:
    cargo nextest run --workspace --profile netns {{arguments}}

# Private Postgres, Redis and RabbitMQ: up, down, env, stop, start, restart.
services *arguments:
    ./test-services {{arguments}}

fmt:
    cargo fmt --all

lint:
    cargo clippy --workspace --all-targets --locked -- -D warnings

doc:
    RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --document-private-items --locked

# Who may depend on whom, licences, bans, duplicates, unused dependencies.
dependencies:
    cargo nextest run -p mediator --test layering

# The Kubernetes manifests against the schemas of the API.
manifests:
    cargo nextest run -p mediator --test manifests
