//! The conformance suite of the store: every rule holds on SQLite and on Postgres.
#![expect(clippy::unwrap_used, reason = "tests")]

mod account_quota;
mod addresses;
mod belonging;
mod blocks;
mod budgets;
mod directory;
mod erasing;
mod events;
mod faults;
mod gateways;
mod governing;
mod inviting;
mod kinds;
mod lab;
mod membership;
mod operations;
mod people;
mod plans;
mod quota;
mod removals;
mod rotation;
mod schema;
mod seats;
mod secrets;
mod sync;
mod webhooks;

/// Makes one test of every rule and engine. The names contain the engine, which selects tests that need a server.
macro_rules! conformance {
    ($($rule:ident),+ $(,)?) => {
        mod on_sqlite {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $rule() {
                let lab = crate::lab::Lab::on_sqlite().await;
                super::$rule(&lab).await;
                lab.end().await;
            })+
        }

        mod on_postgres {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $rule() {
                let lab = crate::lab::Lab::on_postgres().await;
                super::$rule(&lab).await;
                lab.end().await;
            })+
        }
    };
}
pub(crate) use conformance;
