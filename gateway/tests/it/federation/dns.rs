//! A DNS server with the records of a test.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex},
};

use hickory_proto::{
    op::{Message, MessageType, ResponseCode},
    rr::{
        Name, RData, Record, RecordType,
        rdata::{CNAME, SRV},
    },
};
use tokio::net::UdpSocket;

type Zone = HashMap<(String, RecordType), Vec<RData>>;

#[derive(Clone)]
pub(super) struct NameServer {
    pub(super) address: SocketAddr,
    zone: Arc<Mutex<Zone>>,
}

impl NameServer {
    pub(super) async fn start() -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let this = Self { address: socket.local_addr().unwrap(), zone: Arc::default() };
        let server = this.clone();
        tokio::spawn(async move {
            let mut buffer = [0; 4096];
            loop {
                let (length, from) = socket.recv_from(&mut buffer).await.unwrap();
                let answer = server.answer(&buffer[..length]);
                socket.send_to(&answer, from).await.unwrap();
            }
        });
        this
    }

    pub(super) fn address(&self, name: &str, address: &str) {
        let (kind, data) = match address.parse::<IpAddr>().unwrap() {
            IpAddr::V4(v4) => (RecordType::A, RData::A(v4.into())),
            IpAddr::V6(v6) => (RecordType::AAAA, RData::AAAA(v6.into())),
        };
        self.zone.lock().unwrap().entry((name.to_owned(), kind)).or_default().push(data);
    }

    pub(super) fn srv(&self, name: &str, priority: u16, target: &str, port: u16) {
        let target = Name::from_ascii(format!("{target}.")).unwrap();
        let data = RData::SRV(SRV::new(priority, 0, port, target));
        let key = (name.to_owned(), RecordType::SRV);
        self.zone.lock().unwrap().entry(key).or_default().push(data);
    }

    pub(super) fn alias(&self, name: &str, of: &str) {
        let data = RData::CNAME(CNAME(Name::from_ascii(format!("{of}.")).unwrap()));
        self.zone.lock().unwrap().insert((name.to_owned(), RecordType::CNAME), vec![data]);
    }

    fn answer(&self, question: &[u8]) -> Vec<u8> {
        let question = Message::from_vec(question).unwrap();
        let query = question.queries[0].clone();
        let mut answer = Message::response(question.metadata.id, question.metadata.op_code);
        answer.metadata.message_type = MessageType::Response;
        answer.metadata.recursion_desired = true;
        answer.metadata.recursion_available = true;
        let zone = self.zone.lock().unwrap();
        let of = |name: &Name, kind| {
            let name = name.to_ascii().to_ascii_lowercase();
            zone.get(&(name.trim_end_matches('.').to_owned(), kind))
        };
        let mut name = query.name().clone();
        if let Some([data @ RData::CNAME(CNAME(target))]) =
            of(&name, RecordType::CNAME).map(Vec::as_slice)
        {
            answer.add_answer(Record::from_rdata(name, 60, data.clone()));
            name = target.clone();
        }
        match of(&name, query.query_type()) {
            Some(found) => {
                for data in found {
                    answer.add_answer(Record::from_rdata(name.clone(), 60, data.clone()));
                }
            }
            None => answer.metadata.response_code = ResponseCode::NXDomain,
        }
        answer.add_query(query);
        answer.to_vec().unwrap()
    }
}
