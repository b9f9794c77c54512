//! What operators see and do.

use std::{net::Ipv4Addr, sync::Arc};

use bus::{Bus, Served};
use contract::network::{
    NetworkRow, Refusal, SessionRow,
    operators::{
        EndSessions, EndedSession, FindNetworks, FoundNetworks, Govern, GovernRefusal, MemberRow, Members, MembersPage,
        MembershipRow, NetworkDetails, NetworkPlace, NetworkShown, SessionsEnded, ShowNetwork, Whereabouts,
        WhereaboutsReply,
    },
};
use domain::{NetworkOrder, Revision};
use presence::Seat;
use store::{GovernError, NetworkSummary};

use crate::{
    Role,
    announce::Word,
    govern::{meeting, refused},
    internal, now,
};

/// Rows in one page, at most.
const MAX_ROWS: u16 = 500;

impl Role {
    /// Serves the calls of operators.
    pub(crate) async fn serve_operators(
        self: &Arc<Self>,
        bus: &Bus,
        at_once: usize,
    ) -> Result<Vec<Served>, bus::Error> {
        Ok(vec![
            bus.serve(at_once, self.on(|role, call: FindNetworks| async move { role.find_networks(call).await }))
                .await?,
            bus.serve(at_once, self.on(|role, call: ShowNetwork| async move { role.show_network(call).await })).await?,
            bus.serve(at_once, self.on(|role, call: Members| async move { role.members(call).await })).await?,
            bus.serve(at_once, self.on(|role, call: Whereabouts| async move { role.whereabouts(call).await })).await?,
            bus.serve(at_once, self.on(|role, call: Govern| async move { role.govern(call).await })).await?,
            bus.serve(at_once, self.on(|role, call: EndSessions| async move { role.end_sessions(call).await })).await?,
        ])
    }

    async fn find_networks(&self, call: FindNetworks) -> Result<FoundNetworks, Refusal> {
        let after = call.after.map(|place| store::Place { name: place.name, id: place.network });
        let limit = call.limit.clamp(1, MAX_ROWS);
        let found = self.seams.networks.find(call.prefix, after, limit).await.map_err(|error| internal(&error))?;
        let next = found.next.map(|place| NetworkPlace { name: place.name, network: place.id });
        Ok(FoundNetworks { networks: found.items.into_iter().map(row).collect(), next })
    }

    async fn show_network(&self, call: ShowNetwork) -> Result<NetworkShown, Refusal> {
        let details = self.seams.networks.show(call.network, now()).await.map_err(|error| internal(&error))?;
        let network = details.map(|details| NetworkDetails {
            row: row(details.summary),
            terms: details.terms,
            admissions: details.admissions,
        });
        Ok(NetworkShown { network })
    }

    async fn members(&self, call: Members) -> Result<MembersPage, Refusal> {
        let limit = call.limit.clamp(1, MAX_ROWS);
        let found = self.seams.networks.members(call.network, call.after, limit + 1).await;
        let mut found = found.map_err(|error| internal(&error))?;
        let more = found.len() > usize::from(limit);
        found.truncate(usize::from(limit));
        let clients: Vec<_> = found.iter().map(|member| member.client).collect();
        let online = self.announcer.online(&clients).await.map_err(|error| internal(&error))?;
        let rows = found.into_iter().map(|member| MemberRow {
            online: online.contains_key(&member.client),
            client: member.client,
            nick: member.nick,
            role: member.role,
            v4: member.v4.map(Ipv4Addr::to_bits),
            joined: member.joined,
            unseated: !member.seated,
            kept: member.kept,
        });
        Ok(MembersPage { members: rows.collect(), more })
    }

    async fn whereabouts(&self, Whereabouts { client }: Whereabouts) -> Result<WhereaboutsReply, Refusal> {
        let networks = self.seams.networks.networks_of(client).await.map_err(|error| internal(&error))?;
        let mut online = self.announcer.online(&[client]).await.map_err(|error| internal(&error))?;
        let networks = networks.into_iter().map(|(summary, role)| MembershipRow { network: row(summary), role });
        Ok(WhereaboutsReply { session: online.remove(&client).map(session), networks: networks.collect() })
    }

    /// Like [`Role::order`], in the place of the owner, whom nobody asks: it is told like everybody else.
    async fn govern(&self, Govern { network, order, expected }: Govern) -> Result<Revision, GovernRefusal> {
        if matches!(order, NetworkOrder::Invite(_) | NetworkOrder::Agree(_)) {
            // Only members can seal the network's secret, and only a machine agrees to lead others.
            return Err(GovernRefusal::Order(Refusal::NotPermitted));
        }
        let admitted = if let NetworkOrder::Approve(applicant) = order { Some(applicant) } else { None };
        let meets = meeting(&order);
        let turned_away = if let NetworkOrder::Reject(outsider) | NetworkOrder::Ban(outsider) = order {
            Some(outsider)
        } else {
            None
        };
        let governed = self.seams.networks.govern(network, order, expected, now()).await;
        let announcement = governed.map_err(|error| match error {
            GovernError::UnknownNetwork => GovernRefusal::NoSuchNetwork,
            GovernError::Changed => GovernRefusal::Changed,
            GovernError::Order(error) => GovernRefusal::Order(refused(error)),
        })?;
        let (change, others) = (announcement.change.clone(), announcement.to.clone());
        self.announcer.tell(Word::Change { announcement, except: None });
        if let Some(outsider) =
            turned_away.filter(|outsider| change.members.iter().all(|gone| gone.client != *outsider))
        {
            self.announcer.tell(Word::Left { client: outsider, change: change.clone() });
        }
        self.meet(meets, &others);
        if let Some(client) = admitted {
            let others = others.into_iter().filter(|member| *member != client).collect();
            self.announcer.tell(Word::Met { client, others });
        }
        Ok(change.revision)
    }

    async fn end_sessions(&self, call: EndSessions) -> Result<SessionsEnded, Refusal> {
        if call.clients.len() > EndSessions::MOST {
            return Err(Refusal::Malformed);
        }
        let seats = self.announcer.end(&call.clients, call.back_after_ms).await.map_err(|error| internal(&error))?;
        let ended = seats.into_iter().map(|seat| EndedSession { client: seat.client, epoch: seat.epoch });
        Ok(SessionsEnded { ended: ended.collect() })
    }
}

/// A network as a list shows it.
pub(crate) fn row(summary: NetworkSummary) -> NetworkRow {
    NetworkRow {
        network: summary.network,
        name: summary.name,
        owner: summary.owner,
        members: summary.members,
        seats: summary.seats,
        revision: summary.revision,
        created: summary.created,
        kind: summary.kind,
    }
}

/// A session as a list shows it.
pub(crate) fn session(seat: Seat) -> SessionRow {
    SessionRow {
        client: seat.client,
        gateway: seat.gateway,
        epoch: seat.epoch,
        since: seat.since,
        class: seat.profile.map(|profile| profile.class()),
    }
}
