/*M!999999\- enable the sandbox mode */ 

/*!40101 SET @OLD_CHARACTER_SET_CLIENT=@@CHARACTER_SET_CLIENT */;
/*!40101 SET @OLD_CHARACTER_SET_RESULTS=@@CHARACTER_SET_RESULTS */;
/*!40101 SET @OLD_COLLATION_CONNECTION=@@COLLATION_CONNECTION */;
/*!40101 SET NAMES utf8mb4 */;
/*!40103 SET @OLD_TIME_ZONE=@@TIME_ZONE */;
/*!40103 SET TIME_ZONE='+00:00' */;
/*!40014 SET @OLD_UNIQUE_CHECKS=@@UNIQUE_CHECKS, UNIQUE_CHECKS=0 */;
/*!40014 SET @OLD_FOREIGN_KEY_CHECKS=@@FOREIGN_KEY_CHECKS, FOREIGN_KEY_CHECKS=0 */;
/*!40101 SET @OLD_SQL_MODE=@@SQL_MODE, SQL_MODE='NO_AUTO_VALUE_ON_ZERO' */;
/*!40111 SET @OLD_SQL_NOTES=@@SQL_NOTES, SQL_NOTES=0 */;
DROP TABLE IF EXISTS `attested_node_entries`;
/*!40101 SET @saved_cs_client     = @@character_set_client */;
/*!40101 SET character_set_client = utf8mb4 */;
CREATE TABLE `attested_node_entries` (
  `id` int(10) unsigned NOT NULL AUTO_INCREMENT,
  `created_at` datetime DEFAULT NULL,
  `updated_at` datetime DEFAULT NULL,
  `spiffe_id` varchar(255) DEFAULT NULL,
  `data_type` varchar(255) DEFAULT NULL,
  `serial_number` varchar(255) DEFAULT NULL,
  `expires_at` datetime DEFAULT NULL,
  `new_serial_number` varchar(255) DEFAULT NULL,
  `new_expires_at` datetime DEFAULT NULL,
  `can_reattest` tinyint(1) DEFAULT NULL,
  `agent_version` varchar(255) DEFAULT NULL,
  PRIMARY KEY (`id`),
  UNIQUE KEY `uix_attested_node_entries_spiffe_id` (`spiffe_id`),
  KEY `idx_attested_node_entries_expires_at` (`expires_at`)
) ENGINE=InnoDB AUTO_INCREMENT=2 DEFAULT CHARSET=utf8mb3 COLLATE=utf8mb3_general_ci ROW_FORMAT=DYNAMIC;
/*!40101 SET character_set_client = @saved_cs_client */;

LOCK TABLES `attested_node_entries` WRITE;
/*!40000 ALTER TABLE `attested_node_entries` DISABLE KEYS */;
INSERT INTO `attested_node_entries` VALUES
(1,'2026-11-22 09:14:31','2026-11-22 09:14:31','spiffe://example.org/spire/agent/join_token/d67a6cd8-a638-4f7e-aeb4-67927af26501','join_token','235507850969592549221965175772108565497','2036-11-19 09:14:31','',NULL,0,'1.16.0-dev-unk');
/*!40000 ALTER TABLE `attested_node_entries` ENABLE KEYS */;
UNLOCK TABLES;
DROP TABLE IF EXISTS `attested_node_entries_events`;
/*!40101 SET @saved_cs_client     = @@character_set_client */;
/*!40101 SET character_set_client = utf8mb4 */;
CREATE TABLE `attested_node_entries_events` (
  `id` int(10) unsigned NOT NULL AUTO_INCREMENT,
  `created_at` datetime DEFAULT NULL,
  `updated_at` datetime DEFAULT NULL,
  `spiffe_id` varchar(255) DEFAULT NULL,
  PRIMARY KEY (`id`)
) ENGINE=InnoDB AUTO_INCREMENT=4 DEFAULT CHARSET=utf8mb3 COLLATE=utf8mb3_general_ci ROW_FORMAT=DYNAMIC;
/*!40101 SET character_set_client = @saved_cs_client */;

LOCK TABLES `attested_node_entries_events` WRITE;
/*!40000 ALTER TABLE `attested_node_entries_events` DISABLE KEYS */;
INSERT INTO `attested_node_entries_events` VALUES
(1,'2026-11-22 09:14:31','2026-11-22 09:14:31','spiffe://example.org/spire/agent/join_token/d67a6cd8-a638-4f7e-aeb4-67927af26501'),
(2,'2026-11-22 09:14:31','2026-11-22 09:14:31','spiffe://example.org/spire/agent/join_token/d67a6cd8-a638-4f7e-aeb4-67927af26501'),
(3,'2026-11-22 09:14:31','2026-11-22 09:14:31','spiffe://example.org/spire/agent/join_token/d67a6cd8-a638-4f7e-aeb4-67927af26501');
/*!40000 ALTER TABLE `attested_node_entries_events` ENABLE KEYS */;
UNLOCK TABLES;
DROP TABLE IF EXISTS `bundles`;
/*!40101 SET @saved_cs_client     = @@character_set_client */;
/*!40101 SET character_set_client = utf8mb4 */;
CREATE TABLE `bundles` (
  `id` int(10) unsigned NOT NULL AUTO_INCREMENT,
  `created_at` datetime DEFAULT NULL,
  `updated_at` datetime DEFAULT NULL,
  `trust_domain` varchar(255) NOT NULL,
  `data` longblob DEFAULT NULL,
  PRIMARY KEY (`id`),
  UNIQUE KEY `uix_bundles_trust_domain` (`trust_domain`)
) ENGINE=InnoDB AUTO_INCREMENT=3 DEFAULT CHARSET=utf8mb3 COLLATE=utf8mb3_general_ci ROW_FORMAT=DYNAMIC;
/*!40101 SET character_set_client = @saved_cs_client */;

LOCK TABLES `bundles` WRITE;
/*!40000 ALTER TABLE `bundles` DISABLE KEYS */;
INSERT INTO `bundles` VALUES
(1,'2026-11-22 09:14:31','2026-11-22 09:14:31','spiffe://example.org',0x0A147370696666653A2F2F6578616D706C652E6F72671288040A850430820201308201A7A003020102021076EDF406C714C19DE0CEE4F58CE03B40300A06082A8648CE3D0403023050310B3009060355040613025553310F300D060355040A13065350494646453130302E06035504051327313538303834343237333033303137373033303433363839353430373630333134353932303634301E170D3236313132323039313432315A170D3436313131373039313433315A3050310B3009060355040613025553310F300D060355040A13065350494646453130302E060355040513273135383038343432373330333031373730333034333638393534303736303331343539323036343059301306072A8648CE3D020106082A8648CE3D030107034200049F6CFB687A60FEB3F1A81196110C2182D1C565F064D7F1CC8E406D829F1470DE8E8F7E6BFC7A8EB59F9DCC1D31F66EC5ECF941B868BD832ECC846ECE603ACAE9A3633061300E0603551D0F0101FF040403020106300F0603551D130101FF040530030101FF301D0603551D0E0416041412B512EB412DF450DB7A4EDF02ADCAF507C3D299301F0603551D110418301686147370696666653A2F2F6578616D706C652E6F7267300A06082A8648CE3D040302034800304502206B408CB9E60738F488243C86F8001615E23F9079560FFE621463C6E58CAA3B37022100A75C2B080FE3D4A556A41B47AFA4EEB67AA981F06956354E726D7DE3384CA0931A85010A5B3059301306072A8648CE3D020106082A8648CE3D030107034200040CFCF0C6A349259C3433ED73DFBDD6C62711A389DBAB60D20FD2032D873962F1FC7B1D5E415B127D34560AA2D42E636282C900D9FD1460EA67FD6FDC84D527A912204F4A6936546544424A326E786A66767678504870306D6264477277535361424618F7F0EA84092801),
(2,'2026-11-22 09:14:31','2026-11-22 09:14:31','spiffe://other.test',0x0A137370696666653A2F2F6F746865722E7465737412CA030AC703308201C330820169A00302010202141177F95FB9CDBD811F48875123C1301C9996AB00300A06082A8648CE3D040302301E310B3009060355040613025553310F300D060355040A0C06535049464645301E170D3236313132323039313430325A170D3436313131373039313430325A301E310B3009060355040613025553310F300D060355040A0C065350494646453059301306072A8648CE3D020106082A8648CE3D03010703420004D8A620B6BFA32A34FF028E66FFB9D2D8A26A454D6DBAC83075C5719798B93D1C1B29C0F471D35B7EEF911BDD2CD48D4C5C02183EF21261E907210057C23F424BA38184308181301D0603551D0E04160414DAF2C410B640F6C6857ADFEAB0F626D36D21868E301F0603551D23041830168014DAF2C410B640F6C6857ADFEAB0F626D36D21868E300F0603551D130101FF040530030101FF301E0603551D110417301586137370696666653A2F2F6F746865722E74657374300E0603551D0F0101FF040403020106300A06082A8648CE3D040302034800304502200CEEE86A77CC2A49B660B44C56772C7201F6FA22107E146E1CCE45FDA10BDDD0022100F2744DD5FAF1E7BDDFB222FDDEC38851196B93A2F7C0C0A9F6E6135076B4749D20D8042807);
/*!40000 ALTER TABLE `bundles` ENABLE KEYS */;
UNLOCK TABLES;
DROP TABLE IF EXISTS `ca_journals`;
/*!40101 SET @saved_cs_client     = @@character_set_client */;
/*!40101 SET character_set_client = utf8mb4 */;
CREATE TABLE `ca_journals` (
  `id` int(10) unsigned NOT NULL AUTO_INCREMENT,
  `created_at` datetime DEFAULT NULL,
  `updated_at` datetime DEFAULT NULL,
  `data` longblob DEFAULT NULL,
  `active_x509_authority_id` varchar(255) DEFAULT NULL,
  `active_jwt_authority_id` varchar(255) DEFAULT NULL,
  PRIMARY KEY (`id`),
  KEY `idx_ca_journals_active_x509_authority_id` (`active_x509_authority_id`),
  KEY `idx_ca_journals_active_jwt_authority_id` (`active_jwt_authority_id`)
) ENGINE=InnoDB AUTO_INCREMENT=2 DEFAULT CHARSET=utf8mb3 COLLATE=utf8mb3_general_ci ROW_FORMAT=DYNAMIC;
/*!40101 SET character_set_client = @saved_cs_client */;

LOCK TABLES `ca_journals` WRITE;
/*!40000 ALTER TABLE `ca_journals` DISABLE KEYS */;
INSERT INTO `ca_journals` VALUES
(1,'2026-11-22 09:14:31','2026-11-22 09:14:31',0x0AC3040A014110F7E48AD8061A850430820201308201A7A003020102021076EDF406C714C19DE0CEE4F58CE03B40300A06082A8648CE3D0403023050310B3009060355040613025553310F300D060355040A13065350494646453130302E06035504051327313538303834343237333033303137373033303433363839353430373630333134353932303634301E170D3236313132323039313432315A170D3436313131373039313433315A3050310B3009060355040613025553310F300D060355040A13065350494646453130302E060355040513273135383038343432373330333031373730333034333638393534303736303331343539323036343059301306072A8648CE3D020106082A8648CE3D030107034200049F6CFB687A60FEB3F1A81196110C2182D1C565F064D7F1CC8E406D829F1470DE8E8F7E6BFC7A8EB59F9DCC1D31F66EC5ECF941B868BD832ECC846ECE603ACAE9A3633061300E0603551D0F0101FF040403020106300F0603551D130101FF040530030101FF301D0603551D0E0416041412B512EB412DF450DB7A4EDF02ADCAF507C3D299301F0603551D110418301686147370696666653A2F2F6578616D706C652E6F7267300A06082A8648CE3D040302034800304502206B408CB9E60738F488243C86F8001615E23F9079560FFE621463C6E58CAA3B37022100A75C2B080FE3D4A556A41B47AFA4EEB67AA981F06956354E726D7DE3384CA093280332283132623531326562343132646634353064623761346564663032616463616635303763336432393938F7F0EA840912B2010A014110F7E48AD80618F7F0EA840922204F4A6936546544424A326E786A66767678504870306D626447727753536142462A5B3059301306072A8648CE3D020106082A8648CE3D030107034200040CFCF0C6A349259C3433ED73DFBDD6C62711A389DBAB60D20FD2032D873962F1FC7B1D5E415B127D34560AA2D42E636282C900D9FD1460EA67FD6FDC84D527A930033A204F4A6936546544424A326E786A66767678504870306D62644772775353614246,'12b512eb412df450db7a4edf02adcaf507c3d299','');
/*!40000 ALTER TABLE `ca_journals` ENABLE KEYS */;
UNLOCK TABLES;
DROP TABLE IF EXISTS `dns_names`;
/*!40101 SET @saved_cs_client     = @@character_set_client */;
/*!40101 SET character_set_client = utf8mb4 */;
CREATE TABLE `dns_names` (
  `id` int(10) unsigned NOT NULL AUTO_INCREMENT,
  `created_at` datetime DEFAULT NULL,
  `updated_at` datetime DEFAULT NULL,
  `registered_entry_id` int(10) unsigned DEFAULT NULL,
  `value` varchar(255) DEFAULT NULL,
  PRIMARY KEY (`id`),
  UNIQUE KEY `idx_dns_entry` (`registered_entry_id`,`value`)
) ENGINE=InnoDB AUTO_INCREMENT=3 DEFAULT CHARSET=utf8mb3 COLLATE=utf8mb3_general_ci ROW_FORMAT=DYNAMIC;
/*!40101 SET character_set_client = @saved_cs_client */;

LOCK TABLES `dns_names` WRITE;
/*!40000 ALTER TABLE `dns_names` DISABLE KEYS */;
INSERT INTO `dns_names` VALUES
(1,'2026-11-22 09:14:32','2026-11-22 09:14:32',3,'web.example.org'),
(2,'2026-11-22 09:14:32','2026-11-22 09:14:32',3,'db.example.org');
/*!40000 ALTER TABLE `dns_names` ENABLE KEYS */;
UNLOCK TABLES;
DROP TABLE IF EXISTS `federated_registration_entries`;
/*!40101 SET @saved_cs_client     = @@character_set_client */;
/*!40101 SET character_set_client = utf8mb4 */;
CREATE TABLE `federated_registration_entries` (
  `bundle_id` int(10) unsigned NOT NULL,
  `registered_entry_id` int(10) unsigned NOT NULL,
  PRIMARY KEY (`bundle_id`,`registered_entry_id`),
  KEY `idx_federated_registration_entries_registered_entry_id` (`registered_entry_id`)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb3 COLLATE=utf8mb3_general_ci ROW_FORMAT=DYNAMIC;
/*!40101 SET character_set_client = @saved_cs_client */;

LOCK TABLES `federated_registration_entries` WRITE;
/*!40000 ALTER TABLE `federated_registration_entries` DISABLE KEYS */;
INSERT INTO `federated_registration_entries` VALUES
(2,3);
/*!40000 ALTER TABLE `federated_registration_entries` ENABLE KEYS */;
UNLOCK TABLES;
DROP TABLE IF EXISTS `federated_trust_domains`;
/*!40101 SET @saved_cs_client     = @@character_set_client */;
/*!40101 SET character_set_client = utf8mb4 */;
CREATE TABLE `federated_trust_domains` (
  `id` int(10) unsigned NOT NULL AUTO_INCREMENT,
  `created_at` datetime DEFAULT NULL,
  `updated_at` datetime DEFAULT NULL,
  `trust_domain` varchar(255) NOT NULL,
  `bundle_endpoint_url` varchar(255) DEFAULT NULL,
  `bundle_endpoint_profile` varchar(255) DEFAULT NULL,
  `endpoint_spiffe_id` varchar(255) DEFAULT NULL,
  `implicit` tinyint(1) DEFAULT NULL,
  PRIMARY KEY (`id`),
  UNIQUE KEY `uix_federated_trust_domains_trust_domain` (`trust_domain`)
) ENGINE=InnoDB AUTO_INCREMENT=2 DEFAULT CHARSET=utf8mb3 COLLATE=utf8mb3_general_ci ROW_FORMAT=DYNAMIC;
/*!40101 SET character_set_client = @saved_cs_client */;

LOCK TABLES `federated_trust_domains` WRITE;
/*!40000 ALTER TABLE `federated_trust_domains` DISABLE KEYS */;
INSERT INTO `federated_trust_domains` VALUES
(1,'2026-11-22 09:14:31','2026-11-22 09:14:31','other.test','https://other.test:8443/bundle','https_web','',0);
/*!40000 ALTER TABLE `federated_trust_domains` ENABLE KEYS */;
UNLOCK TABLES;
DROP TABLE IF EXISTS `join_tokens`;
/*!40101 SET @saved_cs_client     = @@character_set_client */;
/*!40101 SET character_set_client = utf8mb4 */;
CREATE TABLE `join_tokens` (
  `id` int(10) unsigned NOT NULL AUTO_INCREMENT,
  `created_at` datetime DEFAULT NULL,
  `updated_at` datetime DEFAULT NULL,
  `token` varchar(255) DEFAULT NULL,
  `expiry` bigint(20) DEFAULT NULL,
  PRIMARY KEY (`id`),
  UNIQUE KEY `uix_join_tokens_token` (`token`)
) ENGINE=InnoDB AUTO_INCREMENT=3 DEFAULT CHARSET=utf8mb3 COLLATE=utf8mb3_general_ci ROW_FORMAT=DYNAMIC;
/*!40101 SET character_set_client = @saved_cs_client */;

LOCK TABLES `join_tokens` WRITE;
/*!40000 ALTER TABLE `join_tokens` DISABLE KEYS */;
INSERT INTO `join_tokens` VALUES
(2,'2026-11-22 09:14:32','2026-11-22 09:14:32','626af5aa-e384-43ef-b30e-1316631430e4',2110698872);
/*!40000 ALTER TABLE `join_tokens` ENABLE KEYS */;
UNLOCK TABLES;
DROP TABLE IF EXISTS `migrations`;
/*!40101 SET @saved_cs_client     = @@character_set_client */;
/*!40101 SET character_set_client = utf8mb4 */;
CREATE TABLE `migrations` (
  `id` int(10) unsigned NOT NULL AUTO_INCREMENT,
  `created_at` datetime DEFAULT NULL,
  `updated_at` datetime DEFAULT NULL,
  `version` int(11) DEFAULT NULL,
  `code_version` varchar(255) DEFAULT NULL,
  PRIMARY KEY (`id`)
) ENGINE=InnoDB AUTO_INCREMENT=2 DEFAULT CHARSET=utf8mb3 COLLATE=utf8mb3_general_ci ROW_FORMAT=DYNAMIC;
/*!40101 SET character_set_client = @saved_cs_client */;

LOCK TABLES `migrations` WRITE;
/*!40000 ALTER TABLE `migrations` DISABLE KEYS */;
INSERT INTO `migrations` VALUES
(1,'2026-11-22 09:14:30','2026-11-22 09:14:30',25,'1.16.0-dev-unk');
/*!40000 ALTER TABLE `migrations` ENABLE KEYS */;
UNLOCK TABLES;
DROP TABLE IF EXISTS `node_resolver_map_entries`;
/*!40101 SET @saved_cs_client     = @@character_set_client */;
/*!40101 SET character_set_client = utf8mb4 */;
CREATE TABLE `node_resolver_map_entries` (
  `id` int(10) unsigned NOT NULL AUTO_INCREMENT,
  `created_at` datetime DEFAULT NULL,
  `updated_at` datetime DEFAULT NULL,
  `spiffe_id` varchar(255) DEFAULT NULL,
  `type` varchar(255) DEFAULT NULL,
  `value` varchar(255) DEFAULT NULL,
  PRIMARY KEY (`id`),
  UNIQUE KEY `idx_node_resolver_map` (`spiffe_id`,`type`,`value`)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb3 COLLATE=utf8mb3_general_ci ROW_FORMAT=DYNAMIC;
/*!40101 SET character_set_client = @saved_cs_client */;

LOCK TABLES `node_resolver_map_entries` WRITE;
/*!40000 ALTER TABLE `node_resolver_map_entries` DISABLE KEYS */;
/*!40000 ALTER TABLE `node_resolver_map_entries` ENABLE KEYS */;
UNLOCK TABLES;
DROP TABLE IF EXISTS `registered_entries`;
/*!40101 SET @saved_cs_client     = @@character_set_client */;
/*!40101 SET character_set_client = utf8mb4 */;
CREATE TABLE `registered_entries` (
  `id` int(10) unsigned NOT NULL AUTO_INCREMENT,
  `created_at` datetime DEFAULT NULL,
  `updated_at` datetime DEFAULT NULL,
  `entry_id` varchar(255) DEFAULT NULL,
  `spiffe_id` varchar(255) DEFAULT NULL,
  `parent_id` varchar(255) DEFAULT NULL,
  `ttl` int(11) DEFAULT NULL,
  `admin` tinyint(1) DEFAULT NULL,
  `downstream` tinyint(1) DEFAULT NULL,
  `expiry` bigint(20) DEFAULT NULL,
  `revision_number` bigint(20) DEFAULT NULL,
  `store_svid` tinyint(1) DEFAULT NULL,
  `hint` varchar(255) DEFAULT NULL,
  `jwt_svid_ttl` int(11) DEFAULT NULL,
  `additional_attributes` longblob DEFAULT NULL,
  PRIMARY KEY (`id`),
  UNIQUE KEY `uix_registered_entries_entry_id` (`entry_id`),
  KEY `idx_registered_entries_spiffe_id` (`spiffe_id`),
  KEY `idx_registered_entries_parent_id` (`parent_id`),
  KEY `idx_registered_entries_expiry` (`expiry`),
  KEY `idx_registered_entries_hint` (`hint`)
) ENGINE=InnoDB AUTO_INCREMENT=9 DEFAULT CHARSET=utf8mb3 COLLATE=utf8mb3_general_ci ROW_FORMAT=DYNAMIC;
/*!40101 SET character_set_client = @saved_cs_client */;

LOCK TABLES `registered_entries` WRITE;
/*!40000 ALTER TABLE `registered_entries` DISABLE KEYS */;
INSERT INTO `registered_entries` VALUES
(1,'2026-11-22 09:14:31','2026-11-22 09:14:31','d9b471ed-315a-47fa-832f-eb067762b80b','spiffe://example.org/node/one','spiffe://example.org/spire/agent/join_token/d67a6cd8-a638-4f7e-aeb4-67927af26501',0,0,0,0,0,0,'',0,NULL),
(2,'2026-11-22 09:14:31','2026-11-22 09:14:31','plain','spiffe://example.org/plain','spiffe://example.org/spire/agent/join_token/d67a6cd8-a638-4f7e-aeb4-67927af26501',0,0,0,0,0,0,'',0,NULL),
(3,'2026-11-22 09:14:32','2026-11-22 09:14:32','full','spiffe://example.org/full','spiffe://example.org/node/one',1800,0,0,0,0,0,'internal',120,0x1001),
(4,'2026-11-22 09:14:32','2026-11-22 09:14:32','admin','spiffe://example.org/admin','spiffe://example.org/spire/agent/join_token/d67a6cd8-a638-4f7e-aeb4-67927af26501',0,1,0,0,0,0,'',0,NULL),
(5,'2026-11-22 09:14:32','2026-11-22 09:14:32','downstream','spiffe://example.org/downstream','spiffe://example.org/spire/agent/join_token/d67a6cd8-a638-4f7e-aeb4-67927af26501',0,0,1,0,0,0,'',0,NULL),
(6,'2026-11-22 09:14:32','2026-11-22 09:14:32','expiring','spiffe://example.org/expiring','spiffe://example.org/spire/agent/join_token/d67a6cd8-a638-4f7e-aeb4-67927af26501',0,0,0,4102444800,0,0,'',0,NULL),
(7,'2026-11-22 09:14:32','2026-11-22 09:14:32','stored','spiffe://example.org/stored','spiffe://example.org/spire/agent/join_token/d67a6cd8-a638-4f7e-aeb4-67927af26501',0,0,0,0,0,1,'',0,NULL);
/*!40000 ALTER TABLE `registered_entries` ENABLE KEYS */;
UNLOCK TABLES;
DROP TABLE IF EXISTS `registered_entries_events`;
/*!40101 SET @saved_cs_client     = @@character_set_client */;
/*!40101 SET character_set_client = utf8mb4 */;
CREATE TABLE `registered_entries_events` (
  `id` int(10) unsigned NOT NULL AUTO_INCREMENT,
  `created_at` datetime DEFAULT NULL,
  `updated_at` datetime DEFAULT NULL,
  `entry_id` varchar(255) DEFAULT NULL,
  PRIMARY KEY (`id`)
) ENGINE=InnoDB AUTO_INCREMENT=10 DEFAULT CHARSET=utf8mb3 COLLATE=utf8mb3_general_ci ROW_FORMAT=DYNAMIC;
/*!40101 SET character_set_client = @saved_cs_client */;

LOCK TABLES `registered_entries_events` WRITE;
/*!40000 ALTER TABLE `registered_entries_events` DISABLE KEYS */;
INSERT INTO `registered_entries_events` VALUES
(1,'2026-11-22 09:14:31','2026-11-22 09:14:31','d9b471ed-315a-47fa-832f-eb067762b80b'),
(2,'2026-11-22 09:14:31','2026-11-22 09:14:31','plain'),
(3,'2026-11-22 09:14:32','2026-11-22 09:14:32','full'),
(4,'2026-11-22 09:14:32','2026-11-22 09:14:32','admin'),
(5,'2026-11-22 09:14:32','2026-11-22 09:14:32','downstream'),
(6,'2026-11-22 09:14:32','2026-11-22 09:14:32','expiring'),
(7,'2026-11-22 09:14:32','2026-11-22 09:14:32','stored'),
(8,'2026-11-22 09:14:32','2026-11-22 09:14:32','gone'),
(9,'2026-11-22 09:14:32','2026-11-22 09:14:32','gone');
/*!40000 ALTER TABLE `registered_entries_events` ENABLE KEYS */;
UNLOCK TABLES;
DROP TABLE IF EXISTS `selectors`;
/*!40101 SET @saved_cs_client     = @@character_set_client */;
/*!40101 SET character_set_client = utf8mb4 */;
CREATE TABLE `selectors` (
  `id` int(10) unsigned NOT NULL AUTO_INCREMENT,
  `created_at` datetime DEFAULT NULL,
  `updated_at` datetime DEFAULT NULL,
  `registered_entry_id` int(10) unsigned DEFAULT NULL,
  `type` varchar(255) DEFAULT NULL,
  `value` varchar(255) DEFAULT NULL,
  PRIMARY KEY (`id`),
  UNIQUE KEY `idx_selector_entry` (`registered_entry_id`,`type`,`value`),
  KEY `idx_selectors_type_value` (`type`,`value`)
) ENGINE=InnoDB AUTO_INCREMENT=10 DEFAULT CHARSET=utf8mb3 COLLATE=utf8mb3_general_ci ROW_FORMAT=DYNAMIC;
/*!40101 SET character_set_client = @saved_cs_client */;

LOCK TABLES `selectors` WRITE;
/*!40000 ALTER TABLE `selectors` DISABLE KEYS */;
INSERT INTO `selectors` VALUES
(1,'2026-11-22 09:14:31','2026-11-22 09:14:31',1,'spiffe_id','spiffe://example.org/spire/agent/join_token/d67a6cd8-a638-4f7e-aeb4-67927af26501'),
(2,'2026-11-22 09:14:31','2026-11-22 09:14:31',2,'unix','uid:0'),
(3,'2026-11-22 09:14:32','2026-11-22 09:14:32',3,'unix','uid:0'),
(4,'2026-11-22 09:14:32','2026-11-22 09:14:32',3,'unix','gid:0'),
(5,'2026-11-22 09:14:32','2026-11-22 09:14:32',4,'unix','uid:4711'),
(6,'2026-11-22 09:14:32','2026-11-22 09:14:32',5,'unix','uid:4712'),
(7,'2026-11-22 09:14:32','2026-11-22 09:14:32',6,'unix','uid:4713'),
(8,'2026-11-22 09:14:32','2026-11-22 09:14:32',7,'disk','name:x');
/*!40000 ALTER TABLE `selectors` ENABLE KEYS */;
UNLOCK TABLES;
/*!40103 SET TIME_ZONE=@OLD_TIME_ZONE */;

/*!40101 SET SQL_MODE=@OLD_SQL_MODE */;
/*!40014 SET FOREIGN_KEY_CHECKS=@OLD_FOREIGN_KEY_CHECKS */;
/*!40014 SET UNIQUE_CHECKS=@OLD_UNIQUE_CHECKS */;
/*!40101 SET CHARACTER_SET_CLIENT=@OLD_CHARACTER_SET_CLIENT */;
/*!40101 SET CHARACTER_SET_RESULTS=@OLD_CHARACTER_SET_RESULTS */;
/*!40101 SET COLLATION_CONNECTION=@OLD_COLLATION_CONNECTION */;
/*!40111 SET SQL_NOTES=@OLD_SQL_NOTES */;

