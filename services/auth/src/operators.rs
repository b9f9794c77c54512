//! What operators see and change: clients, plans, usage.

use std::{net::Ipv4Addr, sync::Arc};

use bus::{Bus, Served};
use contract::auth::operators::{
    AssignPlan, ChangePlan, ClientPlace, ClientRow, ClientSearch, DropPlan, FindClients, FoundClients, MakePlan, Plans,
    PlansReply, Refusal, SeatsLostByPlan, Usage, UsagePage, UsageRow,
};
use domain::{Month, SeatsLost};
use store::{MonthUsage, PlanError, ReassignError, Standing};

use crate::{Auth, reseating, serve};

/// Rows in one page, at most.
const MAX_ROWS: u16 = 500;

impl Auth {
    /// Serves the calls of operators.
    pub(crate) async fn serve_operators(
        self: &Arc<Self>,
        bus: &Bus,
        concurrency: usize,
    ) -> Result<Vec<Served>, bus::Error> {
        let told = bus.clone();
        let assign = move |auth: Arc<Self>, call: AssignPlan| {
            let bus = told.clone();
            async move { auth.assign_plan(&bus, call).await }
        };
        let told = bus.clone();
        let change = move |auth: Arc<Self>, call: ChangePlan| {
            let bus = told.clone();
            async move { auth.change_plan(&bus, call).await }
        };
        Ok(vec![
            bus.serve(concurrency, serve(self, |auth, call: FindClients| async move { auth.find_clients(call).await }))
                .await?,
            bus.serve(concurrency, serve(self, assign)).await?,
            bus.serve(concurrency, serve(self, |auth, Plans| async move { auth.plans().await })).await?,
            bus.serve(concurrency, serve(self, |auth, call: MakePlan| async move { auth.make_plan(call).await }))
                .await?,
            bus.serve(concurrency, serve(self, change)).await?,
            bus.serve(
                concurrency,
                serve(self, |auth, call: SeatsLostByPlan| async move { auth.seats_lost(call).await }),
            )
            .await?,
            bus.serve(concurrency, serve(self, |auth, call: DropPlan| async move { auth.drop_plan(call).await }))
                .await?,
            bus.serve(concurrency, serve(self, |auth, call: Usage| async move { auth.usage(call).await })).await?,
        ])
    }

    async fn find_clients(&self, call: FindClients) -> Result<FoundClients, Refusal> {
        let search = match call.search {
            ClientSearch::Ids(first, last) => store::ClientSearch::Ids(first, last),
            ClientSearch::Nick(text) => store::ClientSearch::Nick(text),
            ClientSearch::Address(address) => store::ClientSearch::Address(Ipv4Addr::from_bits(address)),
        };
        let after = call.after.map(|place| store::Place { name: place.name, id: place.client });
        let limit = call.limit.clamp(1, MAX_ROWS);
        let found = self.accounts.find_clients(search, after, limit).await.map_err(|error| failed(&error))?;
        let rows = found.items.into_iter().map(|one| ClientRow {
            client: one.client,
            nick: one.nick,
            plan: one.plan,
            blocked: one.standing == Standing::Blocked,
            registered: one.registered,
            seen: one.seen,
            v4: one.v4.map(Ipv4Addr::to_bits),
        });
        let next = found.next.map(|place| ClientPlace { name: place.name, client: place.id });
        Ok(FoundClients { clients: rows.collect(), next })
    }

    async fn assign_plan(&self, bus: &Bus, call: AssignPlan) -> Result<(), Refusal> {
        let reassigned = self.accounts.reassign_plan(call.client, call.expected.as_deref(), &call.plan).await;
        reassigned.map_err(|error| match error {
            ReassignError::UnknownPlan => Refusal::NoSuchPlan,
            ReassignError::UnknownClient(_) => Refusal::NoSuchClient,
            ReassignError::Changed => Refusal::Changed,
            ReassignError::Store(error) => failed(&error),
        })?;
        reseating::hint(bus).await;
        Ok(())
    }

    async fn plans(&self) -> Result<PlansReply, Refusal> {
        Ok(PlansReply { plans: self.accounts.plans().await.map_err(|error| failed(&error))? })
    }

    async fn make_plan(&self, call: MakePlan) -> Result<(), Refusal> {
        self.accounts.make_plan(call.plan).await.map_err(plan_refused)
    }

    async fn change_plan(&self, bus: &Bus, call: ChangePlan) -> Result<(), Refusal> {
        self.accounts.change_plan(call.expected, call.plan).await.map_err(plan_refused)?;
        reseating::hint(bus).await;
        Ok(())
    }

    async fn seats_lost(&self, call: SeatsLostByPlan) -> Result<SeatsLost, Refusal> {
        self.accounts.seats_lost_by_plan(&call.plan, call.members).await.map_err(|error| failed(&error))
    }

    async fn drop_plan(&self, call: DropPlan) -> Result<(), Refusal> {
        self.accounts.drop_plan(call.expected).await.map_err(plan_refused)
    }

    async fn usage(&self, call: Usage) -> Result<UsagePage, Refusal> {
        let (found, limit) = match call {
            Usage::Of(payer, limit) => {
                let limit = limit.clamp(1, MAX_ROWS);
                (self.accounts.usage_of(payer, limit + 1).await, limit)
            }
            Usage::In { month, after, limit } => {
                let limit = limit.clamp(1, MAX_ROWS);
                (self.accounts.usage_in(Month::from_number(month), after, limit + 1).await, limit)
            }
        };
        let mut found = found.map_err(|error| failed(&error))?;
        let more = found.len() > usize::from(limit);
        found.truncate(usize::from(limit));
        let rows = found.into_iter().map(|MonthUsage { payer, month, bytes }| UsageRow {
            payer,
            month: month.number(),
            bytes,
        });
        Ok(UsagePage { rows: rows.collect(), more })
    }
}

fn plan_refused(error: PlanError) -> Refusal {
    match error {
        PlanError::Exists => Refusal::PlanExists,
        PlanError::LimitReached { .. } => Refusal::LimitReached,
        PlanError::Changed => Refusal::Changed,
        PlanError::InUse => Refusal::PlanInUse,
        PlanError::Store(error) => failed(&error),
    }
}

fn failed(error: &store::Error) -> Refusal {
    if store::Error::is_busy(error) {
        return Refusal::Busy;
    }
    Refusal::Internal { incident: telemetry::incident::log("a call of an operator", error) }
}
