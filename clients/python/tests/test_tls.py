"""TLS: who is trusted, and what is said of those who are not."""

from __future__ import annotations

import unittest

from postbell import Agent, Invalid, Refused, TlsFailed

from .mesh import mesh


class Tls(unittest.IsolatedAsyncioTestCase):
    def setUp(self) -> None:
        self.who = mesh().agent("secret")

    def agent(self, **more: object) -> Agent:
        return self.who.agent(**({"url": mesh().tls_url} | more))

    async def works(self, **more: object) -> None:
        async with self.agent(**more) as agent:
            self.assertTrue(await agent.send(to=agent.name, payload=1))
            message = await anext(agent.messages())
            self.assertTrue(await message.ack())

    async def test_a_ca_or_the_pin_is_enough_and_both_are_checked(self) -> None:
        await self.works(ca=mesh().ca)
        await self.works(pin=mesh().pin)
        await self.works(pin=mesh().pin.upper(), ca=str(mesh().ca))
        with self.assertRaises(TlsFailed):
            await self.agent(ca=mesh().ca, pin="00" * 32).connect()

    async def test_the_systems_roots_do_not_know_it(self) -> None:
        with self.assertRaisesRegex(TlsFailed, "issuer that is not trusted here .*POSTBELL_CA"):
            await self.agent().connect()

    async def test_another_certificate_than_the_pinned_one_gets_no_token(self) -> None:
        with self.assertRaisesRegex(TlsFailed, "which is not the pinned one"):
            await self.agent(pin=":".join(["5e"] * 32)).connect()

    async def test_a_port_that_speaks_none_is_told_apart(self) -> None:
        with self.assertRaisesRegex(TlsFailed, "speaks no TLS there"):
            await self.agent(url=mesh().url.replace("tcp://", "tcp+tls://"), pin="00" * 32).connect()

    async def test_a_port_that_speaks_only_tls_refuses_in_clear(self) -> None:
        with self.assertRaisesRegex(Refused, r"use a tcp\+tls:// URL") as refused:
            await self.agent(url=mesh().tls_url.replace("tcp+tls://", "tcp://")).connect()
        self.assertEqual(refused.exception.code, "plaintext_refused")

    async def test_whoever_asks_for_verification_gets_no_connection_in_clear(self) -> None:
        with self.assertRaisesRegex(Invalid, r"use tcp\+tls://"):
            self.who.agent(pin="00" * 32)
        with self.assertRaisesRegex(Invalid, "64 hexadecimal digits"):
            self.agent(pin="5e")
        with self.assertRaisesRegex(Invalid, "belong together"):
            self.agent(client_cert="cert.pem")
