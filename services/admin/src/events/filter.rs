//! Which events somebody wants.

use domain::{AccountId, ClientId, Event, EventKind, NetworkId};

/// What is wanted: every list that is not empty must name something of the event. Networks and accounts are one list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Filter {
    pub(crate) kinds: Vec<EventKind>,
    pub(crate) networks: Vec<NetworkId>,
    pub(crate) accounts: Vec<AccountId>,
    pub(crate) clients: Vec<ClientId>,
}

impl Filter {
    pub(crate) fn wants(&self, event: &Event) -> bool {
        let names = |client: Option<ClientId>| client.is_some_and(|client| self.clients.contains(&client));
        let in_network = event.network.is_some_and(|network| self.networks.contains(&network));
        let in_account = event.account.is_some_and(|account| self.accounts.contains(&account));
        let anywhere = self.networks.is_empty() && self.accounts.is_empty();
        (self.kinds.is_empty() || self.kinds.contains(&event.kind))
            && (anywhere || in_network || in_account)
            && (self.clients.is_empty() || names(event.client) || names(event.peer))
    }
}

/// The kinds that words name: `member.joined`, or `member.*` for all that begin so. In the order of the catalogue, each once.
pub(crate) fn kinds<'a>(words: impl IntoIterator<Item = &'a str>) -> Result<Vec<EventKind>, String> {
    let mut kinds = Vec::new();
    for word in words {
        let group = word.strip_suffix('*').filter(|group| group.ends_with('.'));
        let named = |kind: &EventKind| group.map_or(kind.name() == word, |group| kind.name().starts_with(group));
        let before = kinds.len();
        kinds.extend(EventKind::ALL.into_iter().filter(named));
        if kinds.len() == before {
            let shown: String = word.chars().take(40).collect();
            return Err(format!("{shown:?} is no kind of event: GET /v1/events/kinds names them"));
        }
    }
    kinds.sort();
    kinds.dedup();
    Ok(kinds)
}

#[cfg(test)]
mod tests {
    use domain::UnixMillis;

    use super::*;

    #[test]
    fn kinds_are_named_one_by_one_or_by_their_group() {
        assert_eq!(kinds(["pair.direct"]).unwrap(), [EventKind::PairDirect]);
        let pairs = [EventKind::PairDirect, EventKind::PairRelayed, EventKind::PairCapped];
        assert_eq!(kinds(["pair.*", "pair.direct"]).unwrap(), pairs);
        assert!(kinds([]).unwrap().is_empty());
        for bad in ["", "*", "pair", "pair*", "nobody.*", "pair.direct ", "PAIR.DIRECT"] {
            assert!(kinds([bad]).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_event_must_agree_with_every_list() {
        let (client, other) = (ClientId::from_bytes([1; 16]), ClientId::from_bytes([2; 16]));
        let network = NetworkId::from_bytes([3; 16]);
        let account = AccountId::from_bytes([4; 16]);
        let pair = Event::new(EventKind::PairDirect, UnixMillis(1), [0; 10]).pair(client, other);
        let joined = Event::new(EventKind::MemberJoined, UnixMillis(1), [0; 10]).client(client).network(network);
        let all = Filter::default();
        assert!(all.wants(&pair) && all.wants(&joined));
        let of_other = Filter { clients: vec![other], ..Filter::default() };
        assert!(of_other.wants(&pair) && !of_other.wants(&joined));
        let of_network = Filter { networks: vec![network], accounts: vec![account], ..Filter::default() };
        assert!(!of_network.wants(&pair) && of_network.wants(&joined) && of_network.wants(&pair.account(account)));
        let both = Filter { kinds: vec![EventKind::MemberLeft], ..of_network };
        assert!(!both.wants(&joined));
    }
}
