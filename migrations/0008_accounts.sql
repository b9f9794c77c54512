-- Accounts of people: who logs in, what they may do, and which clients and networks are theirs. Nothing personal stands in any
-- other table, so that erasing an account is deleting from these.

-- How many clients one account may have.
ALTER TABLE plans ADD COLUMN clients_per_account BIGINT NOT NULL DEFAULT 256;

CREATE TABLE accounts (
    id        BYTEA   PRIMARY KEY,
    plan      TEXT    NOT NULL REFERENCES plans (name),
    suspended BOOLEAN NOT NULL,
    -- Raised by the first statement of every write: the lock.
    revision  BIGINT  NOT NULL,
    made_ms   BIGINT  NOT NULL
);

CREATE INDEX accounts_plan ON accounts (plan);

-- A row comes into being when the address is proved, by a mailed token or by a provider: there are no unverified people.
CREATE TABLE people (
    id       BYTEA  PRIMARY KEY,
    -- In lower case.
    email    TEXT   NOT NULL UNIQUE,
    -- argon2id in PHC form. NULL: logs in through a provider only.
    password TEXT,
    -- Of an OpenID provider.
    issuer   TEXT,
    subject  TEXT,
    made_ms  BIGINT NOT NULL
);

CREATE UNIQUE INDEX people_subject ON people (issuer, subject) WHERE issuer IS NOT NULL;

-- 0 is a member, 1 an admin, 2 the owner.
CREATE TABLE account_people (
    account  BYTEA  NOT NULL REFERENCES accounts (id),
    person   BYTEA  NOT NULL REFERENCES people (id),
    role     BIGINT NOT NULL,
    since_ms BIGINT NOT NULL,
    PRIMARY KEY (account, person)
);

CREATE INDEX account_people_person ON account_people (person, since_ms);
CREATE UNIQUE INDEX account_people_owner ON account_people (account) WHERE role = 2;

-- What is used once: mailed links, codes for clients, log-ins at a provider that are under way. The row is deleted by the
-- statement that uses it; the secret itself is never here.
CREATE TABLE account_tokens (
    hash       BYTEA  PRIMARY KEY,
    -- 0 sign-up, 1 reset, 2 invitation, 3 code for a client, 4 log-in at a provider.
    kind       BIGINT NOT NULL,
    -- Whom it was mailed to.
    email      TEXT,
    -- The password hash of somebody who signs up: whoever verifies the address has to know that password, too.
    password   TEXT,
    person     BYTEA  REFERENCES people (id),
    account    BYTEA  REFERENCES accounts (id),
    role       BIGINT,
    expires_ms BIGINT NOT NULL
);

CREATE INDEX account_tokens_expiry ON account_tokens (expires_ms);
CREATE INDEX account_tokens_email ON account_tokens (email, kind) WHERE email IS NOT NULL;
CREATE INDEX account_tokens_person ON account_tokens (person) WHERE person IS NOT NULL;
CREATE INDEX account_tokens_account ON account_tokens (account) WHERE account IS NOT NULL;

CREATE TABLE account_sessions (
    hash       BYTEA  PRIMARY KEY,
    person     BYTEA  NOT NULL REFERENCES people (id),
    made_ms    BIGINT NOT NULL,
    expires_ms BIGINT NOT NULL
);

CREATE INDEX account_sessions_person ON account_sessions (person);
CREATE INDEX account_sessions_expiry ON account_sessions (expires_ms);

-- Mail that has to be sent. A row is deleted when the next server has the message. Its token is derived from the nonce and a key
-- that is not in the database.
CREATE TABLE account_mails (
    id        BYTEA  PRIMARY KEY,
    kind      BIGINT NOT NULL,
    recipient TEXT   NOT NULL,
    nonce     BYTEA  NOT NULL,
    tries     BIGINT NOT NULL,
    -- Not before: raised by whoever takes it, so that nobody else does.
    due_ms    BIGINT NOT NULL
);

CREATE INDEX account_mails_due ON account_mails (due_ms);
CREATE INDEX account_mails_recipient ON account_mails (recipient);

ALTER TABLE clients ADD COLUMN account BYTEA REFERENCES accounts (id);
-- Counts only while the network's owner is a client of the same account.
ALTER TABLE networks ADD COLUMN account BYTEA REFERENCES accounts (id);
CREATE INDEX clients_account ON clients (account) WHERE account IS NOT NULL;
CREATE INDEX networks_account ON networks (account) WHERE account IS NOT NULL;
