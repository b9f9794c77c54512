//! The bus between roles: calls with deadlines and events, in process or over RabbitMQ.

mod message;

pub use message::{Call, Delivery, Event};
