--
-- PostgreSQL database dump
--


-- Dumped from database version 15.20 (Debian 15.20-0+deb12u1)
-- Dumped by pg_dump version 15.20 (Debian 15.20-0+deb12u1)

SET statement_timeout = 0;
SET lock_timeout = 0;
SET idle_in_transaction_session_timeout = 0;
SET client_encoding = 'UTF8';
SET standard_conforming_strings = on;
SELECT pg_catalog.set_config('search_path', '', false);
SET check_function_bodies = false;
SET xmloption = content;
SET client_min_messages = warning;
SET row_security = off;

SET default_tablespace = '';

SET default_table_access_method = heap;

--
-- Name: attested_node_entries; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.attested_node_entries (
    id integer NOT NULL,
    created_at timestamp with time zone,
    updated_at timestamp with time zone,
    spiffe_id text,
    data_type text,
    serial_number text,
    expires_at timestamp with time zone,
    new_serial_number text,
    new_expires_at timestamp with time zone,
    can_reattest boolean,
    agent_version text
);


--
-- Name: attested_node_entries_events; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.attested_node_entries_events (
    id integer NOT NULL,
    created_at timestamp with time zone,
    updated_at timestamp with time zone,
    spiffe_id text
);


--
-- Name: attested_node_entries_events_id_seq; Type: SEQUENCE; Schema: public; Owner: -
--

CREATE SEQUENCE public.attested_node_entries_events_id_seq
    AS integer
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;


--
-- Name: attested_node_entries_events_id_seq; Type: SEQUENCE OWNED BY; Schema: public; Owner: -
--

ALTER SEQUENCE public.attested_node_entries_events_id_seq OWNED BY public.attested_node_entries_events.id;


--
-- Name: attested_node_entries_id_seq; Type: SEQUENCE; Schema: public; Owner: -
--

CREATE SEQUENCE public.attested_node_entries_id_seq
    AS integer
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;


--
-- Name: attested_node_entries_id_seq; Type: SEQUENCE OWNED BY; Schema: public; Owner: -
--

ALTER SEQUENCE public.attested_node_entries_id_seq OWNED BY public.attested_node_entries.id;


--
-- Name: bundles; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.bundles (
    id integer NOT NULL,
    created_at timestamp with time zone,
    updated_at timestamp with time zone,
    trust_domain text NOT NULL,
    data bytea
);


--
-- Name: bundles_id_seq; Type: SEQUENCE; Schema: public; Owner: -
--

CREATE SEQUENCE public.bundles_id_seq
    AS integer
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;


--
-- Name: bundles_id_seq; Type: SEQUENCE OWNED BY; Schema: public; Owner: -
--

ALTER SEQUENCE public.bundles_id_seq OWNED BY public.bundles.id;


--
-- Name: ca_journals; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.ca_journals (
    id integer NOT NULL,
    created_at timestamp with time zone,
    updated_at timestamp with time zone,
    data bytea,
    active_x509_authority_id text,
    active_jwt_authority_id text
);


--
-- Name: ca_journals_id_seq; Type: SEQUENCE; Schema: public; Owner: -
--

CREATE SEQUENCE public.ca_journals_id_seq
    AS integer
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;


--
-- Name: ca_journals_id_seq; Type: SEQUENCE OWNED BY; Schema: public; Owner: -
--

ALTER SEQUENCE public.ca_journals_id_seq OWNED BY public.ca_journals.id;


--
-- Name: dns_names; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.dns_names (
    id integer NOT NULL,
    created_at timestamp with time zone,
    updated_at timestamp with time zone,
    registered_entry_id integer,
    value text
);


--
-- Name: dns_names_id_seq; Type: SEQUENCE; Schema: public; Owner: -
--

CREATE SEQUENCE public.dns_names_id_seq
    AS integer
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;


--
-- Name: dns_names_id_seq; Type: SEQUENCE OWNED BY; Schema: public; Owner: -
--

ALTER SEQUENCE public.dns_names_id_seq OWNED BY public.dns_names.id;


--
-- Name: federated_registration_entries; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.federated_registration_entries (
    bundle_id integer NOT NULL,
    registered_entry_id integer NOT NULL
);


--
-- Name: federated_trust_domains; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.federated_trust_domains (
    id integer NOT NULL,
    created_at timestamp with time zone,
    updated_at timestamp with time zone,
    trust_domain text NOT NULL,
    bundle_endpoint_url text,
    bundle_endpoint_profile text,
    endpoint_spiffe_id text,
    implicit boolean
);


--
-- Name: federated_trust_domains_id_seq; Type: SEQUENCE; Schema: public; Owner: -
--

CREATE SEQUENCE public.federated_trust_domains_id_seq
    AS integer
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;


--
-- Name: federated_trust_domains_id_seq; Type: SEQUENCE OWNED BY; Schema: public; Owner: -
--

ALTER SEQUENCE public.federated_trust_domains_id_seq OWNED BY public.federated_trust_domains.id;


--
-- Name: join_tokens; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.join_tokens (
    id integer NOT NULL,
    created_at timestamp with time zone,
    updated_at timestamp with time zone,
    token text,
    expiry bigint
);


--
-- Name: join_tokens_id_seq; Type: SEQUENCE; Schema: public; Owner: -
--

CREATE SEQUENCE public.join_tokens_id_seq
    AS integer
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;


--
-- Name: join_tokens_id_seq; Type: SEQUENCE OWNED BY; Schema: public; Owner: -
--

ALTER SEQUENCE public.join_tokens_id_seq OWNED BY public.join_tokens.id;


--
-- Name: migrations; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.migrations (
    id integer NOT NULL,
    created_at timestamp with time zone,
    updated_at timestamp with time zone,
    version integer,
    code_version text
);


--
-- Name: migrations_id_seq; Type: SEQUENCE; Schema: public; Owner: -
--

CREATE SEQUENCE public.migrations_id_seq
    AS integer
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;


--
-- Name: migrations_id_seq; Type: SEQUENCE OWNED BY; Schema: public; Owner: -
--

ALTER SEQUENCE public.migrations_id_seq OWNED BY public.migrations.id;


--
-- Name: node_resolver_map_entries; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.node_resolver_map_entries (
    id integer NOT NULL,
    created_at timestamp with time zone,
    updated_at timestamp with time zone,
    spiffe_id text,
    type text,
    value text
);


--
-- Name: node_resolver_map_entries_id_seq; Type: SEQUENCE; Schema: public; Owner: -
--

CREATE SEQUENCE public.node_resolver_map_entries_id_seq
    AS integer
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;


--
-- Name: node_resolver_map_entries_id_seq; Type: SEQUENCE OWNED BY; Schema: public; Owner: -
--

ALTER SEQUENCE public.node_resolver_map_entries_id_seq OWNED BY public.node_resolver_map_entries.id;


--
-- Name: registered_entries; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.registered_entries (
    id integer NOT NULL,
    created_at timestamp with time zone,
    updated_at timestamp with time zone,
    entry_id text,
    spiffe_id text,
    parent_id text,
    ttl integer,
    admin boolean,
    downstream boolean,
    expiry bigint,
    revision_number bigint,
    store_svid boolean,
    hint text,
    jwt_svid_ttl integer,
    additional_attributes bytea
);


--
-- Name: registered_entries_events; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.registered_entries_events (
    id integer NOT NULL,
    created_at timestamp with time zone,
    updated_at timestamp with time zone,
    entry_id text
);


--
-- Name: registered_entries_events_id_seq; Type: SEQUENCE; Schema: public; Owner: -
--

CREATE SEQUENCE public.registered_entries_events_id_seq
    AS integer
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;


--
-- Name: registered_entries_events_id_seq; Type: SEQUENCE OWNED BY; Schema: public; Owner: -
--

ALTER SEQUENCE public.registered_entries_events_id_seq OWNED BY public.registered_entries_events.id;


--
-- Name: registered_entries_id_seq; Type: SEQUENCE; Schema: public; Owner: -
--

CREATE SEQUENCE public.registered_entries_id_seq
    AS integer
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;


--
-- Name: registered_entries_id_seq; Type: SEQUENCE OWNED BY; Schema: public; Owner: -
--

ALTER SEQUENCE public.registered_entries_id_seq OWNED BY public.registered_entries.id;


--
-- Name: selectors; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.selectors (
    id integer NOT NULL,
    created_at timestamp with time zone,
    updated_at timestamp with time zone,
    registered_entry_id integer,
    type text,
    value text
);


--
-- Name: selectors_id_seq; Type: SEQUENCE; Schema: public; Owner: -
--

CREATE SEQUENCE public.selectors_id_seq
    AS integer
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;


--
-- Name: selectors_id_seq; Type: SEQUENCE OWNED BY; Schema: public; Owner: -
--

ALTER SEQUENCE public.selectors_id_seq OWNED BY public.selectors.id;


--
-- Name: attested_node_entries id; Type: DEFAULT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.attested_node_entries ALTER COLUMN id SET DEFAULT nextval('public.attested_node_entries_id_seq'::regclass);


--
-- Name: attested_node_entries_events id; Type: DEFAULT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.attested_node_entries_events ALTER COLUMN id SET DEFAULT nextval('public.attested_node_entries_events_id_seq'::regclass);


--
-- Name: bundles id; Type: DEFAULT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.bundles ALTER COLUMN id SET DEFAULT nextval('public.bundles_id_seq'::regclass);


--
-- Name: ca_journals id; Type: DEFAULT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.ca_journals ALTER COLUMN id SET DEFAULT nextval('public.ca_journals_id_seq'::regclass);


--
-- Name: dns_names id; Type: DEFAULT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.dns_names ALTER COLUMN id SET DEFAULT nextval('public.dns_names_id_seq'::regclass);


--
-- Name: federated_trust_domains id; Type: DEFAULT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.federated_trust_domains ALTER COLUMN id SET DEFAULT nextval('public.federated_trust_domains_id_seq'::regclass);


--
-- Name: join_tokens id; Type: DEFAULT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.join_tokens ALTER COLUMN id SET DEFAULT nextval('public.join_tokens_id_seq'::regclass);


--
-- Name: migrations id; Type: DEFAULT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.migrations ALTER COLUMN id SET DEFAULT nextval('public.migrations_id_seq'::regclass);


--
-- Name: node_resolver_map_entries id; Type: DEFAULT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.node_resolver_map_entries ALTER COLUMN id SET DEFAULT nextval('public.node_resolver_map_entries_id_seq'::regclass);


--
-- Name: registered_entries id; Type: DEFAULT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.registered_entries ALTER COLUMN id SET DEFAULT nextval('public.registered_entries_id_seq'::regclass);


--
-- Name: registered_entries_events id; Type: DEFAULT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.registered_entries_events ALTER COLUMN id SET DEFAULT nextval('public.registered_entries_events_id_seq'::regclass);


--
-- Name: selectors id; Type: DEFAULT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.selectors ALTER COLUMN id SET DEFAULT nextval('public.selectors_id_seq'::regclass);


--
-- Data for Name: attested_node_entries; Type: TABLE DATA; Schema: public; Owner: -
--

INSERT INTO public.attested_node_entries VALUES (1, '2026-11-22 09:14:22.583296+00', '2026-11-22 09:14:22.611179+00', 'spiffe://example.org/spire/agent/join_token/41e396f1-24b3-4593-8de2-2e1062ac8c08', 'join_token', '67079473867309903990690068826870549679', '2036-11-19 09:14:22+00', '', NULL, false, '1.16.0-dev-unk');


--
-- Data for Name: attested_node_entries_events; Type: TABLE DATA; Schema: public; Owner: -
--

INSERT INTO public.attested_node_entries_events VALUES (1, '2026-11-22 09:14:22.581064+00', '2026-11-22 09:14:22.581064+00', 'spiffe://example.org/spire/agent/join_token/41e396f1-24b3-4593-8de2-2e1062ac8c08');
INSERT INTO public.attested_node_entries_events VALUES (2, '2026-11-22 09:14:22.5838+00', '2026-11-22 09:14:22.5838+00', 'spiffe://example.org/spire/agent/join_token/41e396f1-24b3-4593-8de2-2e1062ac8c08');
INSERT INTO public.attested_node_entries_events VALUES (3, '2026-11-22 09:14:22.611753+00', '2026-11-22 09:14:22.611753+00', 'spiffe://example.org/spire/agent/join_token/41e396f1-24b3-4593-8de2-2e1062ac8c08');


--
-- Data for Name: bundles; Type: TABLE DATA; Schema: public; Owner: -
--

INSERT INTO public.bundles VALUES (1, '2026-11-22 09:14:21.898072+00', '2026-11-22 09:14:21.908544+00', 'spiffe://example.org', '\x0a147370696666653a2f2f6578616d706c652e6f72671289040a860430820202308201a8a003020102021100dd5e5001f790a2d426228a767002984d300a06082a8648ce3d0403023050310b3009060355040613025553310f300d060355040a13065350494646453130302e06035504051327323934323439303835373231373832373838303337343436303938333939363137323539353937301e170d3236313132323039313431315a170d3436313131373039313432315a3050310b3009060355040613025553310f300d060355040a13065350494646453130302e060355040513273239343234393038353732313738323738383033373434363039383339393631373235393539373059301306072a8648ce3d020106082a8648ce3d030107034200042a99f42f40f67def983fe27f624fe1dcf0e0214cd962a55c69e5ba6bf8247ff45936b331599721cc6937a48d773ccdadce170176722c35d471338bf3e5f2b8a9a3633061300e0603551d0f0101ff040403020106300f0603551d130101ff040530030101ff301d0603551d0e04160414c5bb846bdc088b32c2e25c03b7a2cd7dc190198e301f0603551d110418301686147370696666653a2f2f6578616d706c652e6f7267300a06082a8648ce3d0403020348003045022100f8d7d88c4746028365e94e986f92f685e8174281ae804c585ba2d5fdb281795402207e84d0e14ca88d091c953c983cefa2274d892af5721a037e55226214df80ffe91a85010a5b3059301306072a8648ce3d020106082a8648ce3d030107034200043f307af2f982b3b3559d8e6fd978bf45faba61cb38ad9feb40a9d41078b452671149ab103ee1f02e0e915b01624863e2078c3f93703fe481ad614fe2722f5ede122054655574386c69774c776853526f4e53496e746c63445379543031344d77574518edf0ea84092801');
INSERT INTO public.bundles VALUES (2, '2026-11-22 09:14:22.888202+00', '2026-11-22 09:14:22.888202+00', 'spiffe://other.test', '\x0a137370696666653a2f2f6f746865722e7465737412ca030ac703308201c330820169a00302010202141177f95fb9cdbd811f48875123c1301c9996ab00300a06082a8648ce3d040302301e310b3009060355040613025553310f300d060355040a0c06535049464645301e170d3236313132323039313430325a170d3436313131373039313430325a301e310b3009060355040613025553310f300d060355040a0c065350494646453059301306072a8648ce3d020106082a8648ce3d03010703420004d8a620b6bfa32a34ff028e66ffb9d2d8a26a454d6dbac83075c5719798b93d1c1b29c0f471d35b7eef911bdd2cd48d4c5c02183ef21261e907210057c23f424ba38184308181301d0603551d0e04160414daf2c410b640f6c6857adfeab0f626d36d21868e301f0603551d23041830168014daf2c410b640f6c6857adfeab0f626d36d21868e300f0603551d130101ff040530030101ff301e0603551d110417301586137370696666653a2f2f6f746865722e74657374300e0603551d0f0101ff040403020106300a06082a8648ce3d040302034800304502200ceee86a77cc2a49b660b44c56772c7201f6fa22107e146e1cce45fda10bddd0022100f2744dd5faf1e7bddfb222fddec38851196b93a2f7c0c0a9f6e6135076b4749d20d8042807');


--
-- Data for Name: ca_journals; Type: TABLE DATA; Schema: public; Owner: -
--

INSERT INTO public.ca_journals VALUES (1, '2026-11-22 09:14:21.900271+00', '2026-11-22 09:14:21.970299+00', '\x0ac4040a014110ede48ad8061a860430820202308201a8a003020102021100dd5e5001f790a2d426228a767002984d300a06082a8648ce3d0403023050310b3009060355040613025553310f300d060355040a13065350494646453130302e06035504051327323934323439303835373231373832373838303337343436303938333939363137323539353937301e170d3236313132323039313431315a170d3436313131373039313432315a3050310b3009060355040613025553310f300d060355040a13065350494646453130302e060355040513273239343234393038353732313738323738383033373434363039383339393631373235393539373059301306072a8648ce3d020106082a8648ce3d030107034200042a99f42f40f67def983fe27f624fe1dcf0e0214cd962a55c69e5ba6bf8247ff45936b331599721cc6937a48d773ccdadce170176722c35d471338bf3e5f2b8a9a3633061300e0603551d0f0101ff040403020106300f0603551d130101ff040530030101ff301d0603551d0e04160414c5bb846bdc088b32c2e25c03b7a2cd7dc190198e301f0603551d110418301686147370696666653a2f2f6578616d706c652e6f7267300a06082a8648ce3d0403020348003045022100f8d7d88c4746028365e94e986f92f685e8174281ae804c585ba2d5fdb281795402207e84d0e14ca88d091c953c983cefa2274d892af5721a037e55226214df80ffe9280332286335626238343662646330383862333263326532356330336237613263643764633139303139386538edf0ea840912b2010a014110ede48ad80618edf0ea8409222054655574386c69774c776853526f4e53496e746c63445379543031344d7757452a5b3059301306072a8648ce3d020106082a8648ce3d030107034200043f307af2f982b3b3559d8e6fd978bf45faba61cb38ad9feb40a9d41078b452671149ab103ee1f02e0e915b01624863e2078c3f93703fe481ad614fe2722f5ede30033a2054655574386c69774c776853526f4e53496e746c63445379543031344d775745', 'c5bb846bdc088b32c2e25c03b7a2cd7dc190198e', '');


--
-- Data for Name: dns_names; Type: TABLE DATA; Schema: public; Owner: -
--

INSERT INTO public.dns_names VALUES (1, '2026-11-22 09:14:23.078739+00', '2026-11-22 09:14:23.078739+00', 3, 'web.example.org');
INSERT INTO public.dns_names VALUES (2, '2026-11-22 09:14:23.079288+00', '2026-11-22 09:14:23.079288+00', 3, 'db.example.org');


--
-- Data for Name: federated_registration_entries; Type: TABLE DATA; Schema: public; Owner: -
--

INSERT INTO public.federated_registration_entries VALUES (2, 3);


--
-- Data for Name: federated_trust_domains; Type: TABLE DATA; Schema: public; Owner: -
--

INSERT INTO public.federated_trust_domains VALUES (1, '2026-11-22 09:14:22.94015+00', '2026-11-22 09:14:22.94015+00', 'other.test', 'https://other.test:8443/bundle', 'https_web', '', false);


--
-- Data for Name: join_tokens; Type: TABLE DATA; Schema: public; Owner: -
--

INSERT INTO public.join_tokens VALUES (2, '2026-11-22 09:14:23.562103+00', '2026-11-22 09:14:23.562103+00', '1b19afe1-377a-480a-9698-fa8adddb62a5', 2110698863);


--
-- Data for Name: migrations; Type: TABLE DATA; Schema: public; Owner: -
--

INSERT INTO public.migrations VALUES (1, '2026-11-22 09:14:21.87512+00', '2026-11-22 09:14:21.87512+00', 25, '1.16.0-dev-unk');


--
-- Data for Name: node_resolver_map_entries; Type: TABLE DATA; Schema: public; Owner: -
--



--
-- Data for Name: registered_entries; Type: TABLE DATA; Schema: public; Owner: -
--

INSERT INTO public.registered_entries VALUES (1, '2026-11-22 09:14:22.474597+00', '2026-11-22 09:14:22.474597+00', '49076736-737e-4fa6-a16c-b3edd968a5e4', 'spiffe://example.org/node/one', 'spiffe://example.org/spire/agent/join_token/41e396f1-24b3-4593-8de2-2e1062ac8c08', 0, false, false, 0, 0, false, '', 0, NULL);
INSERT INTO public.registered_entries VALUES (2, '2026-11-22 09:14:23.009559+00', '2026-11-22 09:14:23.009559+00', 'plain', 'spiffe://example.org/plain', 'spiffe://example.org/spire/agent/join_token/41e396f1-24b3-4593-8de2-2e1062ac8c08', 0, false, false, 0, 0, false, '', 0, NULL);
INSERT INTO public.registered_entries VALUES (3, '2026-11-22 09:14:23.076626+00', '2026-11-22 09:14:23.076626+00', 'full', 'spiffe://example.org/full', 'spiffe://example.org/node/one', 1800, false, false, 0, 0, false, 'internal', 120, '\x1001');
INSERT INTO public.registered_entries VALUES (4, '2026-11-22 09:14:23.185663+00', '2026-11-22 09:14:23.185663+00', 'admin', 'spiffe://example.org/admin', 'spiffe://example.org/spire/agent/join_token/41e396f1-24b3-4593-8de2-2e1062ac8c08', 0, true, false, 0, 0, false, '', 0, NULL);
INSERT INTO public.registered_entries VALUES (5, '2026-11-22 09:14:23.25126+00', '2026-11-22 09:14:23.25126+00', 'downstream', 'spiffe://example.org/downstream', 'spiffe://example.org/spire/agent/join_token/41e396f1-24b3-4593-8de2-2e1062ac8c08', 0, false, true, 0, 0, false, '', 0, NULL);
INSERT INTO public.registered_entries VALUES (6, '2026-11-22 09:14:23.322556+00', '2026-11-22 09:14:23.322556+00', 'expiring', 'spiffe://example.org/expiring', 'spiffe://example.org/spire/agent/join_token/41e396f1-24b3-4593-8de2-2e1062ac8c08', 0, false, false, 4102444800, 0, false, '', 0, NULL);
INSERT INTO public.registered_entries VALUES (7, '2026-11-22 09:14:23.379235+00', '2026-11-22 09:14:23.379235+00', 'stored', 'spiffe://example.org/stored', 'spiffe://example.org/spire/agent/join_token/41e396f1-24b3-4593-8de2-2e1062ac8c08', 0, false, false, 0, 0, true, '', 0, NULL);


--
-- Data for Name: registered_entries_events; Type: TABLE DATA; Schema: public; Owner: -
--

INSERT INTO public.registered_entries_events VALUES (1, '2026-11-22 09:14:22.476871+00', '2026-11-22 09:14:22.476871+00', '49076736-737e-4fa6-a16c-b3edd968a5e4');
INSERT INTO public.registered_entries_events VALUES (2, '2026-11-22 09:14:23.011061+00', '2026-11-22 09:14:23.011061+00', 'plain');
INSERT INTO public.registered_entries_events VALUES (3, '2026-11-22 09:14:23.080517+00', '2026-11-22 09:14:23.080517+00', 'full');
INSERT INTO public.registered_entries_events VALUES (4, '2026-11-22 09:14:23.187088+00', '2026-11-22 09:14:23.187088+00', 'admin');
INSERT INTO public.registered_entries_events VALUES (5, '2026-11-22 09:14:23.252624+00', '2026-11-22 09:14:23.252624+00', 'downstream');
INSERT INTO public.registered_entries_events VALUES (6, '2026-11-22 09:14:23.32405+00', '2026-11-22 09:14:23.32405+00', 'expiring');
INSERT INTO public.registered_entries_events VALUES (7, '2026-11-22 09:14:23.380626+00', '2026-11-22 09:14:23.380626+00', 'stored');
INSERT INTO public.registered_entries_events VALUES (8, '2026-11-22 09:14:23.435571+00', '2026-11-22 09:14:23.435571+00', 'gone');
INSERT INTO public.registered_entries_events VALUES (9, '2026-11-22 09:14:23.487151+00', '2026-11-22 09:14:23.487151+00', 'gone');


--
-- Data for Name: selectors; Type: TABLE DATA; Schema: public; Owner: -
--

INSERT INTO public.selectors VALUES (1, '2026-11-22 09:14:22.475549+00', '2026-11-22 09:14:22.475549+00', 1, 'spiffe_id', 'spiffe://example.org/spire/agent/join_token/41e396f1-24b3-4593-8de2-2e1062ac8c08');
INSERT INTO public.selectors VALUES (2, '2026-11-22 09:14:23.010104+00', '2026-11-22 09:14:23.010104+00', 2, 'unix', 'uid:0');
INSERT INTO public.selectors VALUES (3, '2026-11-22 09:14:23.078001+00', '2026-11-22 09:14:23.078001+00', 3, 'unix', 'uid:0');
INSERT INTO public.selectors VALUES (4, '2026-11-22 09:14:23.07834+00', '2026-11-22 09:14:23.07834+00', 3, 'unix', 'gid:0');
INSERT INTO public.selectors VALUES (5, '2026-11-22 09:14:23.186136+00', '2026-11-22 09:14:23.186136+00', 4, 'unix', 'uid:4711');
INSERT INTO public.selectors VALUES (6, '2026-11-22 09:14:23.251721+00', '2026-11-22 09:14:23.251721+00', 5, 'unix', 'uid:4712');
INSERT INTO public.selectors VALUES (7, '2026-11-22 09:14:23.323069+00', '2026-11-22 09:14:23.323069+00', 6, 'unix', 'uid:4713');
INSERT INTO public.selectors VALUES (8, '2026-11-22 09:14:23.37968+00', '2026-11-22 09:14:23.37968+00', 7, 'disk', 'name:x');


--
-- Name: attested_node_entries_events_id_seq; Type: SEQUENCE SET; Schema: public; Owner: -
--

SELECT pg_catalog.setval('public.attested_node_entries_events_id_seq', 3, true);


--
-- Name: attested_node_entries_id_seq; Type: SEQUENCE SET; Schema: public; Owner: -
--

SELECT pg_catalog.setval('public.attested_node_entries_id_seq', 1, true);


--
-- Name: bundles_id_seq; Type: SEQUENCE SET; Schema: public; Owner: -
--

SELECT pg_catalog.setval('public.bundles_id_seq', 2, true);


--
-- Name: ca_journals_id_seq; Type: SEQUENCE SET; Schema: public; Owner: -
--

SELECT pg_catalog.setval('public.ca_journals_id_seq', 1, true);


--
-- Name: dns_names_id_seq; Type: SEQUENCE SET; Schema: public; Owner: -
--

SELECT pg_catalog.setval('public.dns_names_id_seq', 2, true);


--
-- Name: federated_trust_domains_id_seq; Type: SEQUENCE SET; Schema: public; Owner: -
--

SELECT pg_catalog.setval('public.federated_trust_domains_id_seq', 1, true);


--
-- Name: join_tokens_id_seq; Type: SEQUENCE SET; Schema: public; Owner: -
--

SELECT pg_catalog.setval('public.join_tokens_id_seq', 2, true);


--
-- Name: migrations_id_seq; Type: SEQUENCE SET; Schema: public; Owner: -
--

SELECT pg_catalog.setval('public.migrations_id_seq', 1, true);


--
-- Name: node_resolver_map_entries_id_seq; Type: SEQUENCE SET; Schema: public; Owner: -
--

SELECT pg_catalog.setval('public.node_resolver_map_entries_id_seq', 1, false);


--
-- Name: registered_entries_events_id_seq; Type: SEQUENCE SET; Schema: public; Owner: -
--

SELECT pg_catalog.setval('public.registered_entries_events_id_seq', 9, true);


--
-- Name: registered_entries_id_seq; Type: SEQUENCE SET; Schema: public; Owner: -
--

SELECT pg_catalog.setval('public.registered_entries_id_seq', 8, true);


--
-- Name: selectors_id_seq; Type: SEQUENCE SET; Schema: public; Owner: -
--

SELECT pg_catalog.setval('public.selectors_id_seq', 9, true);


--
-- Name: attested_node_entries_events attested_node_entries_events_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.attested_node_entries_events
    ADD CONSTRAINT attested_node_entries_events_pkey PRIMARY KEY (id);


--
-- Name: attested_node_entries attested_node_entries_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.attested_node_entries
    ADD CONSTRAINT attested_node_entries_pkey PRIMARY KEY (id);


--
-- Name: bundles bundles_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.bundles
    ADD CONSTRAINT bundles_pkey PRIMARY KEY (id);


--
-- Name: ca_journals ca_journals_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.ca_journals
    ADD CONSTRAINT ca_journals_pkey PRIMARY KEY (id);


--
-- Name: dns_names dns_names_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.dns_names
    ADD CONSTRAINT dns_names_pkey PRIMARY KEY (id);


--
-- Name: federated_registration_entries federated_registration_entries_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.federated_registration_entries
    ADD CONSTRAINT federated_registration_entries_pkey PRIMARY KEY (bundle_id, registered_entry_id);


--
-- Name: federated_trust_domains federated_trust_domains_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.federated_trust_domains
    ADD CONSTRAINT federated_trust_domains_pkey PRIMARY KEY (id);


--
-- Name: join_tokens join_tokens_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.join_tokens
    ADD CONSTRAINT join_tokens_pkey PRIMARY KEY (id);


--
-- Name: migrations migrations_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.migrations
    ADD CONSTRAINT migrations_pkey PRIMARY KEY (id);


--
-- Name: node_resolver_map_entries node_resolver_map_entries_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.node_resolver_map_entries
    ADD CONSTRAINT node_resolver_map_entries_pkey PRIMARY KEY (id);


--
-- Name: registered_entries_events registered_entries_events_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.registered_entries_events
    ADD CONSTRAINT registered_entries_events_pkey PRIMARY KEY (id);


--
-- Name: registered_entries registered_entries_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.registered_entries
    ADD CONSTRAINT registered_entries_pkey PRIMARY KEY (id);


--
-- Name: selectors selectors_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.selectors
    ADD CONSTRAINT selectors_pkey PRIMARY KEY (id);


--
-- Name: idx_attested_node_entries_expires_at; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX idx_attested_node_entries_expires_at ON public.attested_node_entries USING btree (expires_at);


--
-- Name: idx_ca_journals_active_jwt_authority_id; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX idx_ca_journals_active_jwt_authority_id ON public.ca_journals USING btree (active_jwt_authority_id);


--
-- Name: idx_ca_journals_active_x509_authority_id; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX idx_ca_journals_active_x509_authority_id ON public.ca_journals USING btree (active_x509_authority_id);


--
-- Name: idx_dns_entry; Type: INDEX; Schema: public; Owner: -
--

CREATE UNIQUE INDEX idx_dns_entry ON public.dns_names USING btree (registered_entry_id, value);


--
-- Name: idx_federated_registration_entries_registered_entry_id; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX idx_federated_registration_entries_registered_entry_id ON public.federated_registration_entries USING btree (registered_entry_id);


--
-- Name: idx_node_resolver_map; Type: INDEX; Schema: public; Owner: -
--

CREATE UNIQUE INDEX idx_node_resolver_map ON public.node_resolver_map_entries USING btree (spiffe_id, type, value);


--
-- Name: idx_registered_entries_expiry; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX idx_registered_entries_expiry ON public.registered_entries USING btree (expiry);


--
-- Name: idx_registered_entries_hint; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX idx_registered_entries_hint ON public.registered_entries USING btree (hint);


--
-- Name: idx_registered_entries_parent_id; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX idx_registered_entries_parent_id ON public.registered_entries USING btree (parent_id);


--
-- Name: idx_registered_entries_spiffe_id; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX idx_registered_entries_spiffe_id ON public.registered_entries USING btree (spiffe_id);


--
-- Name: idx_selector_entry; Type: INDEX; Schema: public; Owner: -
--

CREATE UNIQUE INDEX idx_selector_entry ON public.selectors USING btree (registered_entry_id, type, value);


--
-- Name: idx_selectors_type_value; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX idx_selectors_type_value ON public.selectors USING btree (type, value);


--
-- Name: uix_attested_node_entries_spiffe_id; Type: INDEX; Schema: public; Owner: -
--

CREATE UNIQUE INDEX uix_attested_node_entries_spiffe_id ON public.attested_node_entries USING btree (spiffe_id);


--
-- Name: uix_bundles_trust_domain; Type: INDEX; Schema: public; Owner: -
--

CREATE UNIQUE INDEX uix_bundles_trust_domain ON public.bundles USING btree (trust_domain);


--
-- Name: uix_federated_trust_domains_trust_domain; Type: INDEX; Schema: public; Owner: -
--

CREATE UNIQUE INDEX uix_federated_trust_domains_trust_domain ON public.federated_trust_domains USING btree (trust_domain);


--
-- Name: uix_join_tokens_token; Type: INDEX; Schema: public; Owner: -
--

CREATE UNIQUE INDEX uix_join_tokens_token ON public.join_tokens USING btree (token);


--
-- Name: uix_registered_entries_entry_id; Type: INDEX; Schema: public; Owner: -
--

CREATE UNIQUE INDEX uix_registered_entries_entry_id ON public.registered_entries USING btree (entry_id);


--
-- PostgreSQL database dump complete
--


