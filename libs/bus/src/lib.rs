//! The bus between roles: calls with deadlines and events, in process or over RabbitMQ.
