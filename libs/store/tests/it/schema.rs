//! Migrations, and what a role refuses to start on.

use futures_util::future::join_all;
use store::{Error, SchemaError, StoreOptions};

use crate::lab::Lab;

crate::conformance! {
    migrating_again_changes_nothing,
    a_newer_schema_is_refused,
    an_altered_migration_is_refused,
    the_deployment_is_drawn_once,
}

async fn migrating_again_changes_nothing(lab: &Lab) {
    assert!(store::migrate(&lab.url).await.unwrap().is_empty());
    lab.reopened(domain::AddressPool::DEFAULT).await.close().await;
}

async fn a_newer_schema_is_refused(lab: &Lab) {
    let known = store::migrations().last().unwrap().version;
    lab.execute("INSERT INTO schema_migrations VALUES (999, 'from the future', '', 0)").await;
    let newer = SchemaError::Newer { found: 999, known };
    assert_eq!(refusal(&lab.url).await, newer);
    assert!(matches!(store::migrate(&lab.url).await, Err(Error::Schema(found)) if found == newer));
}

async fn an_altered_migration_is_refused(lab: &Lab) {
    lab.execute("UPDATE schema_migrations SET checksum = '' WHERE version = 1").await;
    assert_eq!(refusal(&lab.url).await, SchemaError::Altered { version: 1 });
}

async fn the_deployment_is_drawn_once(lab: &Lab) {
    let other = lab.reopened(domain::AddressPool::DEFAULT).await;
    assert_eq!(other.accounts.deployment(), lab.accounts().deployment());
    other.close().await;
}

#[tokio::test]
async fn concurrent_migrations_apply_each_step_once_on_sqlite() {
    let lab = Lab::unmigrated_on_sqlite();
    concurrent_migrations_apply_each_step_once(&lab).await;
    lab.end().await;
}

#[tokio::test]
async fn concurrent_migrations_apply_each_step_once_on_postgres() {
    let lab = Lab::unmigrated_on_postgres().await;
    assert_eq!(refusal(&lab.url).await, SchemaError::Missing);
    concurrent_migrations_apply_each_step_once(&lab).await;
    lab.end().await;
}

#[test]
fn every_file_of_the_folder_is_a_migration_of_its_number() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../migrations");
    let mut files: Vec<_> =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    files.sort();
    let known: Vec<_> = store::migrations()
        .iter()
        .map(|migration| format!("{:04}_{}.sql", migration.version, migration.name))
        .collect();
    assert_eq!(files, known);
}

async fn concurrent_migrations_apply_each_step_once(lab: &Lab) {
    let applied = join_all((0..6).map(|_| store::migrate(&lab.url))).await;
    let mut versions: Vec<_> = applied.into_iter().flat_map(Result::unwrap).collect();
    versions.sort_unstable();
    assert_eq!(versions, store::migrations().iter().map(|migration| migration.version).collect::<Vec<_>>());
    store::connect(&lab.url, StoreOptions::default()).await.unwrap().close().await;
}

async fn refusal(url: &str) -> SchemaError {
    match store::connect(url, StoreOptions::default()).await {
        Err(Error::Schema(refusal)) => refusal,
        other => panic!("{other:?}"),
    }
}
