//! People and accounts: which use case is which transaction.

use std::time::Duration;

use async_trait::async_trait;
use domain::{
    AccountExport, AccountId, AccountOrder, AccountView, ClientId, EmailAddress, PersonId, SeatsLost, TokenHash,
    UnixMillis,
};

use super::{account_orders, account_views, engine::Store, mails, providers, seating, signing_up};
use crate::{
    AccountError, AccountSearch, AccountSummary, Actor, AttachError, Attachment, Credentials, Error, Fresh, Mail,
    NewSession, PasswordHash, People, Person, ProviderError, Sessions, Standing, Vouched,
};

#[async_trait]
impl People for Store {
    async fn ask_sign_up(
        &self,
        email: EmailAddress,
        password: PasswordHash,
        fresh: Fresh,
        at: UnixMillis,
    ) -> Result<(), Error> {
        self.engine.write("ask sign-up", move |db| Box::pin(signing_up::ask(db, email, password, fresh, at))).await
    }

    async fn sign_up_password(&self, token: TokenHash, at: UnixMillis) -> Result<Option<PasswordHash>, Error> {
        self.engine.read("sign-up password", move |db| Box::pin(signing_up::password(db, token, at))).await
    }

    async fn confirm_sign_up(
        &self,
        token: TokenHash,
        session: NewSession,
        at: UnixMillis,
    ) -> Result<Option<PersonId>, Error> {
        let (drawn, plan) = (signing_up::draw(), self.default_plan.clone());
        self.engine
            .write("confirm sign-up", move |db| Box::pin(signing_up::confirm(db, token, drawn, plan, session, at)))
            .await
    }

    async fn credentials(&self, email: &EmailAddress) -> Result<Option<Credentials>, Error> {
        let email = email.clone();
        self.engine.read("credentials", move |db| Box::pin(signing_up::credentials(db, email))).await
    }

    async fn open_session(&self, person: PersonId, session: NewSession, at: UnixMillis) -> Result<(), Error> {
        self.engine.write("open session", move |db| Box::pin(signing_up::open_session(db, person, session, at))).await
    }

    async fn person(&self, session: TokenHash, at: UnixMillis) -> Result<Option<Person>, Error> {
        self.engine.read("person", move |db| Box::pin(account_views::person(db, session, at))).await
    }

    async fn end_sessions(&self, which: Sessions) -> Result<u64, Error> {
        self.engine.write("end sessions", move |db| Box::pin(signing_up::end_sessions(db, which))).await
    }

    async fn set_password(&self, person: PersonId, password: PasswordHash, kept: TokenHash) -> Result<(), Error> {
        self.engine
            .write("set password", move |db| Box::pin(signing_up::set_password(db, person, password, Some(kept))))
            .await
    }

    async fn ask_reset(&self, email: EmailAddress, fresh: Fresh, at: UnixMillis) -> Result<(), Error> {
        self.engine.write("ask reset", move |db| Box::pin(signing_up::ask_reset(db, email, fresh, at))).await
    }

    async fn reset(&self, token: TokenHash, password: PasswordHash, at: UnixMillis) -> Result<bool, Error> {
        self.engine.write("reset", move |db| Box::pin(signing_up::reset(db, token, password, at))).await
    }

    async fn accept(&self, person: PersonId, token: TokenHash, at: UnixMillis) -> Result<AccountId, AccountError> {
        self.engine.write("accept", move |db| Box::pin(account_orders::accept(db, person, token, at))).await
    }

    async fn carry_out_for(
        &self,
        actor: PersonId,
        account: AccountId,
        order: AccountOrder,
        fresh: Fresh,
        at: UnixMillis,
    ) -> Result<(), AccountError> {
        let plan = self.default_plan.clone();
        self.engine
            .write("order for account", move |db| {
                Box::pin(account_orders::carry_out(db, actor, account, order, fresh, plan, at))
            })
            .await
    }

    async fn view(&self, actor: Actor, account: AccountId, at: UnixMillis) -> Result<AccountView, AccountError> {
        self.engine.read("view account", move |db| Box::pin(account_views::view(db, actor, account, at))).await
    }

    async fn export(&self, actor: Actor, account: AccountId, at: UnixMillis) -> Result<AccountExport, AccountError> {
        self.engine.read("export account", move |db| Box::pin(account_views::export(db, actor, account, at))).await
    }

    async fn erase(&self, actor: Actor, account: AccountId, at: UnixMillis) -> Result<(), AccountError> {
        let plan = self.default_plan.clone();
        self.engine
            .write("erase account", move |db| Box::pin(account_orders::erase(db, actor, account, plan, at)))
            .await
    }

    async fn attach(&self, client: ClientId, code: TokenHash, at: UnixMillis) -> Result<Attachment, AttachError> {
        self.engine.write("attach", move |db| Box::pin(account_orders::attach(db, client, code, at))).await
    }

    async fn attachment(&self, client: ClientId) -> Result<Option<Attachment>, Error> {
        self.engine.read("attachment", move |db| Box::pin(account_views::attachment(db, client))).await
    }

    async fn detach(&self, client: ClientId, at: UnixMillis) -> Result<bool, AccountError> {
        let plan = self.default_plan.clone();
        self.engine.write("detach", move |db| Box::pin(account_orders::detach(db, client, plan, at))).await
    }

    async fn accounts(
        &self,
        search: AccountSearch,
        after: Option<AccountId>,
        limit: u16,
    ) -> Result<Vec<AccountSummary>, Error> {
        self.engine.read("accounts", move |db| Box::pin(account_views::list(db, search, after, limit))).await
    }

    async fn transfer_account(&self, account: AccountId, heir: PersonId) -> Result<(), AccountError> {
        self.engine.write("transfer account", move |db| Box::pin(account_orders::transfer(db, account, heir))).await
    }

    async fn detach_from(&self, account: AccountId, client: ClientId) -> Result<(), AccountError> {
        let plan = self.default_plan.clone();
        self.engine
            .write("detach from account", move |db| Box::pin(account_orders::detach_from(db, account, client, plan)))
            .await
    }

    async fn seats_lost_by_account(&self, account: AccountId, plan: &str) -> Result<SeatsLost, AccountError> {
        let plan = plan.to_owned();
        self.engine.read("seats lost by account", move |db| Box::pin(seating::lost_by_account(db, account, plan))).await
    }

    async fn assign_account_plan(&self, account: AccountId, plan: &str) -> Result<(), AccountError> {
        let (plan, default) = (plan.to_owned(), self.default_plan.clone());
        self.engine
            .write("assign account plan", move |db| Box::pin(account_orders::assign_plan(db, account, plan, default)))
            .await
    }

    async fn set_account_standing(
        &self,
        account: AccountId,
        standing: Standing,
        at: UnixMillis,
    ) -> Result<(), AccountError> {
        let default = self.default_plan.clone();
        self.engine
            .write("set account standing", move |db| {
                Box::pin(account_orders::set_standing(db, account, standing, default, at))
            })
            .await
    }

    async fn start_provider(
        &self,
        flow: TokenHash,
        person: Option<PersonId>,
        expires: UnixMillis,
    ) -> Result<(), Error> {
        self.engine.write("start provider", move |db| Box::pin(providers::start(db, flow, person, expires))).await
    }

    async fn finish_provider(
        &self,
        flow: TokenHash,
        who: Vouched,
        session: NewSession,
        at: UnixMillis,
    ) -> Result<PersonId, ProviderError> {
        let (drawn, plan) = (signing_up::draw(), self.default_plan.clone());
        self.engine
            .write("finish provider", move |db| Box::pin(providers::finish(db, flow, who, drawn, plan, session, at)))
            .await
    }

    async fn take_mail(&self, lease: Duration, at: UnixMillis) -> Result<Option<Mail>, Error> {
        self.engine.write("take mail", move |db| Box::pin(mails::take(db, lease, at))).await
    }

    async fn forget_mail(&self, mail: [u8; 16]) -> Result<(), Error> {
        self.engine.write("forget mail", move |db| Box::pin(mails::forget(db, mail))).await
    }

    async fn postpone_mail(&self, mail: [u8; 16], due: UnixMillis) -> Result<(), Error> {
        self.engine.write("postpone mail", move |db| Box::pin(mails::postpone(db, mail, due))).await
    }

    async fn prune_people(&self, at: UnixMillis) -> Result<u64, Error> {
        self.engine.write("prune people", move |db| Box::pin(signing_up::prune(db, at))).await
    }
}
