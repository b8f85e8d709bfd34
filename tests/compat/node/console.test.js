// The operators' console in a real browser: it shows what happens, asks nobody else, and reports no error.

import assert from "node:assert/strict";
import test from "node:test";

import { chromium } from "playwright-core";

const { CHROMIUM, CONSOLE_URL, ADMIN_KEY, STOP_URL, SHOTS } = process.env;
const QUIET = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"];

test("the console shows the last requests, opens one by keyboard, and says when its gateway is gone", async () => {
  const browser = await chromium.launch({ executablePath: CHROMIUM, args: QUIET });
  try {
    const page = await browser.newPage({ viewport: { width: 1280, height: 900 } });
    const wrong = [], hosts = new Set();
    page.on("console", (message) => message.type() === "error" && wrong.push(message.text()));
    page.on("pageerror", (error) => wrong.push(String(error)));
    page.on("request", (request) => hosts.add(new URL(request.url()).host));

    await page.goto(`${CONSOLE_URL}/console`);
    await page.getByLabel("Operators' key").fill(ADMIN_KEY);
    await page.keyboard.press("Enter");
    const rows = page.locator("#requests tbody tr button");
    await rows.first().waitFor();
    assert.equal(await rows.count(), 50, "the last fifty of more requests, and no more");
    assert.equal(await page.locator("#link").getAttribute("data-state"), "live");
    assert.match(await page.locator("#where").textContent(), /us-east/);
    await page.locator("#g-total canvas").waitFor();

    const row = page.getByRole("button", { name: await rows.first().textContent(), exact: true });
    await row.focus();
    await page.keyboard.press("Enter");
    await page.locator("#requests .fall > *").first().waitFor();
    assert.equal(await row.getAttribute("aria-expanded"), "true");

    for (const colorScheme of SHOTS ? ["light", "dark"] : []) {
      await page.emulateMedia({ colorScheme });
      await page.evaluate(() => scrollTo(0, 0));
      await page.waitForTimeout(2000); // two frames: graphs are drawn anew in the scheme's colours
      await page.screenshot({ path: `${SHOTS}/console-${colorScheme}.png` });
    }
    assert.deepEqual(wrong, []);
    assert.deepEqual([...hosts], [new URL(CONSOLE_URL).host]);

    if (STOP_URL) {
      await fetch(STOP_URL, { method: "POST" });
      await page.locator('#link[data-state="lost"]').waitFor({ timeout: 3000 });
    }
  } finally {
    await browser.close();
  }
});
