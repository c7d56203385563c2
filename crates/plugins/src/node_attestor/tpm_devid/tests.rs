mod agent;
mod fixture;
mod server;
