//! What people, clients and operators do to accounts.

use contract::account::{
    Accept, AccountLine, AccountOfClient, AccountRefusal, AccountSearch, Accounts, AssignAccountPlan, AttachClient,
    Belongs, DetachClient, DetachFromAccount, Done, EraseAccount, ExportAccount, ListAccounts, OperatorErase,
    OperatorExport, OperatorView, OrderForAccount, OrderedForAccount, SeatsLostByAccount, SuspendAccount,
    TransferAccount, ViewAccount,
};
use domain::{AccountExport, AccountId, AccountOrder, AccountView, AttachCode, ClientAccount, SeatsLost, SessionToken};
use store::{Actor, Attachment, Fresh, Person, Standing};

use super::{
    Desk, now,
    refusal::{failed, refused, unattached},
};

/// Accounts on one page.
const MOST_ON_A_PAGE: u16 = 200;

impl Desk {
    pub(crate) async fn accept(&self, call: Accept) -> Result<AccountId, AccountRefusal> {
        let person = self.person(call.session).await?;
        self.people.accept(person.person, call.token.hash(), now()).await.map_err(refused)
    }

    pub(crate) async fn order(&self, call: OrderForAccount) -> Result<OrderedForAccount, AccountRefusal> {
        let (person, account) = self.acting(call.session, call.account).await?;
        if let AccountOrder::Invite { email, .. } = &call.order {
            self.spend(&self.limits.invitation(&self.key, email)).await?;
        }
        let (fresh, code) = if matches!(call.order, AccountOrder::MakeCode) {
            let code = AttachCode::from_random(u64::from_be_bytes(self.random()?));
            let expires = now().plus(self.lifetimes.code);
            (Fresh { token: code.hash(), nonce: [0; 16], expires }, Some(code))
        } else {
            (self.fresh(self.lifetimes.mail)?, None)
        };
        self.people.carry_out_for(person.person, account, call.order, fresh, now()).await.map_err(refused)?;
        Ok(OrderedForAccount { code_expires: code.is_some().then_some(fresh.expires), code })
    }

    pub(crate) async fn view(&self, call: ViewAccount) -> Result<AccountView, AccountRefusal> {
        let (person, account) = self.acting(call.session, call.account).await?;
        self.people.view(Actor::Person(person.person), account, now()).await.map_err(refused)
    }

    pub(crate) async fn export(&self, call: ExportAccount) -> Result<AccountExport, AccountRefusal> {
        let (person, account) = self.acting(call.session, call.account).await?;
        self.people.export(Actor::Person(person.person), account, now()).await.map_err(refused)
    }

    pub(crate) async fn erase(&self, call: EraseAccount) -> Result<Done, AccountRefusal> {
        let (person, account) = self.acting(call.session, call.account).await?;
        self.prove(&person.email, call.password, call.source).await?;
        self.people.erase(Actor::Person(person.person), account, now()).await.map_err(refused)?;
        Ok(Done)
    }

    pub(crate) async fn attach(&self, call: AttachClient) -> Result<ClientAccount, AccountRefusal> {
        let budgets = self.limits.code(call.client);
        let at = now();
        self.spend(&budgets).await?;
        let attached = self.people.attach(call.client, call.code.hash(), at).await.map_err(unattached)?;
        self.give_back(&budgets, at).await;
        self.metrics.attached.inc();
        Ok(client_account(attached))
    }

    pub(crate) async fn detach(&self, call: DetachClient) -> Result<Done, AccountRefusal> {
        let detached = self.people.detach(call.client, now()).await.map_err(refused)?;
        if detached { Ok(Done) } else { Err(AccountRefusal::Unknown) }
    }

    pub(crate) async fn account_of(&self, call: AccountOfClient) -> Result<Belongs, AccountRefusal> {
        let attachment = self.people.attachment(call.client).await.map_err(|error| failed(&error))?;
        Ok(Belongs { account: attachment.map(client_account) })
    }

    pub(crate) async fn list(&self, call: ListAccounts) -> Result<Accounts, AccountRefusal> {
        let limit = call.limit.clamp(1, MOST_ON_A_PAGE);
        let search = match call.search {
            None => store::AccountSearch::ALL,
            Some(AccountSearch::Ids(first, last)) => store::AccountSearch::Ids(first, last),
            Some(AccountSearch::Email(email)) => store::AccountSearch::Email(email),
        };
        let accounts = self.people.accounts(search, call.after, limit).await.map_err(|error| failed(&error))?;
        let line = |one: store::AccountSummary| AccountLine {
            account: one.account,
            plan: one.plan,
            suspended: one.suspended,
            owner: one.owner,
            people: one.people,
            clients: one.clients,
            made: one.made,
        };
        Ok(Accounts { accounts: accounts.into_iter().map(line).collect() })
    }

    pub(crate) async fn operator_view(&self, call: OperatorView) -> Result<AccountView, AccountRefusal> {
        self.people.view(Actor::Operator, call.account, now()).await.map_err(refused)
    }

    pub(crate) async fn operator_export(&self, call: OperatorExport) -> Result<AccountExport, AccountRefusal> {
        self.people.export(Actor::Operator, call.account, now()).await.map_err(refused)
    }

    pub(crate) async fn operator_erase(&self, call: OperatorErase) -> Result<Done, AccountRefusal> {
        self.people.erase(Actor::Operator, call.account, now()).await.map_err(refused)?;
        Ok(Done)
    }

    pub(crate) async fn assign_plan(&self, call: AssignAccountPlan) -> Result<Done, AccountRefusal> {
        self.people.assign_account_plan(call.account, &call.plan).await.map_err(refused)?;
        Ok(Done)
    }

    pub(crate) async fn seats_lost(&self, call: SeatsLostByAccount) -> Result<SeatsLost, AccountRefusal> {
        self.people.seats_lost_by_account(call.account, &call.plan).await.map_err(refused)
    }

    pub(crate) async fn suspend(&self, call: SuspendAccount) -> Result<Done, AccountRefusal> {
        let standing = if call.suspended { Standing::Blocked } else { Standing::Good };
        self.people.set_account_standing(call.account, standing, now()).await.map_err(refused)?;
        Ok(Done)
    }

    pub(crate) async fn transfer(&self, call: TransferAccount) -> Result<Done, AccountRefusal> {
        self.people.transfer_account(call.account, call.heir).await.map_err(refused)?;
        Ok(Done)
    }

    pub(crate) async fn detach_from(&self, call: DetachFromAccount) -> Result<Done, AccountRefusal> {
        self.people.detach_from(call.account, call.client).await.map_err(refused)?;
        Ok(Done)
    }

    /// Who acts, and for which account: the person's first where none is named. Whether it may is the store's to say.
    async fn acting(
        &self,
        session: SessionToken,
        named: Option<AccountId>,
    ) -> Result<(Person, AccountId), AccountRefusal> {
        let person = self.person(session).await?;
        let first = person.accounts.first().map(|belonging| belonging.account);
        let account = named.or(first).ok_or(AccountRefusal::Unknown)?;
        Ok((person, account))
    }
}

fn client_account(attachment: Attachment) -> ClientAccount {
    ClientAccount { account: attachment.account, plan: attachment.plan }
}
