//! Puts what serves people together, and on the bus.

use std::{fs, path::Path, sync::Arc, thread::available_parallelism};

use bus::{Bus, Call, Served};
use contract::account::{
    Accept, AccountOfClient, AccountRefusal, AskReset, AssignAccountPlan, AttachClient, ChangePassword, DetachClient,
    DetachFromAccount, EraseAccount, ExportAccount, FinishProvider, ListAccounts, LogOut, OfferedProvider,
    OperatorErase, OperatorExport, OperatorView, OrderForAccount, PersonLogIn, Reset, SeatsLostByAccount, SignUp,
    StartProvider, SuspendAccount, TransferAccount, Verify, ViewAccount, WhoAmI,
};
use ring::{hmac, rand::SystemRandom};

use crate::{
    Error, PeopleConfig, Seams,
    desk::{Desk, Lifetimes},
    hashing::Hasher,
    mail::Mailer,
    postman::Postman,
    provider::Provider,
    reseating,
};

/// Reads the key and the mailer.
pub(crate) fn prepare(config: &PeopleConfig, seams: &Seams) -> Result<(Desk, Postman), Error> {
    let key = Arc::new(key(&config.key)?);
    let cores = available_parallelism().map_or(1, std::num::NonZero::get);
    let threads = if config.hashing_threads == 0 { cores } else { config.hashing_threads };
    let mailer = match config.mailer.as_str() {
        "" => {
            tracing::warn!("no mailer is configured (auth.people.mailer): mail waits in the outbox");
            None
        }
        url => Some(Mailer::at(url, &config.mail_from)?),
    };
    let postman = Postman {
        people: Arc::clone(&seams.people),
        mailer,
        key: Arc::clone(&key),
        site: config.site.trim_end_matches('/').to_owned(),
        poll: config.mail_poll,
        metrics: Arc::clone(&seams.metrics),
    };
    let desk = Desk {
        people: Arc::clone(&seams.people),
        budgets: Arc::clone(&seams.networks),
        hasher: Hasher::new(threads, config.hashing_queue).map_err(|_| Error::Hashing)?,
        key: Arc::clone(&key),
        limits: config.limits,
        lifetimes: Lifetimes {
            session: config.session_lifetime,
            mail: config.mail_lifetime,
            reset: config.reset_lifetime,
            code: config.code_lifetime,
        },
        metrics: Arc::clone(&seams.metrics),
        random: SystemRandom::new(),
        provider: provider(config, &key)?,
    };
    Ok((desk, postman))
}

fn provider(config: &PeopleConfig, key: &Arc<hmac::Key>) -> Result<Option<Provider>, Error> {
    let named = &config.provider;
    if named.issuer.is_empty() {
        return Ok(None);
    }
    let site = config.site.trim_end_matches('/');
    let usual = format!("{site}/v1/account/provider/callback");
    let redirect = if named.redirect.is_empty() { &usual } else { &named.redirect };
    let secret = &named.client_secret_file;
    Ok(Some(Provider::new(&named.issuer, &named.client_id, secret, redirect, Arc::clone(key))?))
}

fn key(path: &Path) -> Result<hmac::Key, Error> {
    let failed = |source| Error::AccountKey { path: path.to_owned(), source };
    let bytes = fs::read(path).map_err(failed)?;
    if bytes.len() != 32 {
        return Err(failed(std::io::Error::new(std::io::ErrorKind::InvalidData, "32 bytes are expected")));
    }
    Ok(hmac::Key::new(hmac::HMAC_SHA256, &bytes))
}

/// Serves every call about people.
pub(crate) async fn serve(bus: &Bus, concurrency: usize, desk: &Arc<Desk>) -> Result<Vec<Served>, bus::Error> {
    let at = At { bus, concurrency, desk };
    Ok(vec![
        at.serve(|desk, call: SignUp| async move { desk.sign_up(call).await }).await?,
        at.serve(|desk, call: Verify| async move { desk.verify(call).await }).await?,
        at.serve(|desk, call: PersonLogIn| async move { desk.log_in(call).await }).await?,
        at.serve(|desk, call: LogOut| async move { desk.log_out(call).await }).await?,
        at.serve(|desk, call: WhoAmI| async move { desk.who_am_i(call).await }).await?,
        at.serve(|desk, call: ChangePassword| async move { desk.change_password(call).await }).await?,
        at.serve(|desk, call: AskReset| async move { desk.ask_reset(call).await }).await?,
        at.serve(|desk, call: Reset| async move { desk.reset(call).await }).await?,
        at.serve(|desk, call: Accept| async move { desk.accept(call).await }).await?,
        at.serve_plans(|desk, call: OrderForAccount| async move { desk.order(call).await }).await?,
        at.serve(|desk, call: ViewAccount| async move { desk.view(call).await }).await?,
        at.serve(|desk, call: ExportAccount| async move { desk.export(call).await }).await?,
        at.serve_plans(|desk, call: EraseAccount| async move { desk.erase(call).await }).await?,
        at.serve_plans(|desk, call: AttachClient| async move { desk.attach(call).await }).await?,
        at.serve_plans(|desk, call: DetachClient| async move { desk.detach(call).await }).await?,
        at.serve(|desk, call: AccountOfClient| async move { desk.account_of(call).await }).await?,
        at.serve(|desk, OfferedProvider| async move { Ok(desk.offered()) }).await?,
        at.serve(|desk, call: StartProvider| async move { desk.start_provider(call).await }).await?,
        at.serve(|desk, call: FinishProvider| async move { desk.finish_provider(call).await }).await?,
        at.serve(|desk, call: ListAccounts| async move { desk.list(call).await }).await?,
        at.serve(|desk, call: OperatorView| async move { desk.operator_view(call).await }).await?,
        at.serve(|desk, call: OperatorExport| async move { desk.operator_export(call).await }).await?,
        at.serve_plans(|desk, call: OperatorErase| async move { desk.operator_erase(call).await }).await?,
        at.serve_plans(|desk, call: AssignAccountPlan| async move { desk.assign_plan(call).await }).await?,
        at.serve(|desk, call: SeatsLostByAccount| async move { desk.seats_lost(call).await }).await?,
        at.serve_plans(|desk, call: SuspendAccount| async move { desk.suspend(call).await }).await?,
        at.serve(|desk, call: TransferAccount| async move { desk.transfer(call).await }).await?,
        at.serve_plans(|desk, call: DetachFromAccount| async move { desk.detach_from(call).await }).await?,
    ])
}

struct At<'a> {
    bus: &'a Bus,
    concurrency: usize,
    desk: &'a Arc<Desk>,
}

impl At<'_> {
    async fn serve<C, F, Fut>(&self, handle: F) -> Result<Served, bus::Error>
    where
        C: Call<Refusal = AccountRefusal>,
        F: Fn(Arc<Desk>, C) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<C::Reply, AccountRefusal>> + Send + 'static,
    {
        let desk = Arc::clone(self.desk);
        self.bus.serve(self.concurrency, move |call| handle(Arc::clone(&desk), call)).await
    }

    /// The same, for what may change the plan of clients.
    async fn serve_plans<C, F, Fut>(&self, handle: F) -> Result<Served, bus::Error>
    where
        C: Call<Refusal = AccountRefusal>,
        F: Fn(Arc<Desk>, C) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<C::Reply, AccountRefusal>> + Send + 'static,
    {
        let bus = self.bus.clone();
        self.serve(move |desk, call| {
            let (bus, handled) = (bus.clone(), handle(desk, call));
            async move {
                let outcome = handled.await;
                if outcome.is_ok() {
                    reseating::hint(&bus).await;
                }
                outcome
            }
        })
        .await
    }
}
