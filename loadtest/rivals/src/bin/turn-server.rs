//! The `turn-server` of its crate: `turn-server --config FILE`, until it is killed.

#[global_allocator]
static GLOBAL: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> anyhow::Result<()> {
    let config = turn_server::config::Config::load()?;
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(config.server.max_threads)
        .enable_all()
        .build()?
        .block_on(turn_server::start_server(config))
}
