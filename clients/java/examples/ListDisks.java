// SPDX-License-Identifier: Apache-2.0

import io.virtblock.Client;
import io.virtblock.ClientOptions;
import io.virtblock.DomainService;
import io.virtblock.VirtblockException;
import io.virtblock.v1.Disk;
import io.virtblock.v1.Domain;
import io.virtblock.v1.ListAllDomainsRequest;
import io.virtblock.v1.ListDisksRequest;
import java.time.Duration;

/** Connects and prints the domains and their disks: ListDisks SERVER */
public final class ListDisks {
    private static final Duration TIMEOUT = Duration.ofSeconds(30);

    private ListDisks() {}

    /** See the class. */
    public static void main(String[] arguments) {
        if (arguments.length != 1) {
            System.err.println("usage: ListDisks SERVER");
            System.exit(1);
        }
        try (Client client = Client.open(arguments[0], new ClientOptions().readOnly())) {
            list(client);
        } catch (VirtblockException failure) {
            System.err.println(failure.getMessage());
            System.exit(1);
        }
    }

    private static void list(Client client) throws VirtblockException {
        DomainService calls = client.domain().withTimeout(TIMEOUT);
        ListAllDomainsRequest everything = ListAllDomainsRequest.getDefaultInstance();
        for (Domain domain : client.connection().withTimeout(TIMEOUT).listAllDomains(everything).getDomainsList()) {
            System.out.printf("%s %s %s%n", domain.getUuid(), domain.getName(), domain.getState());
            ListDisksRequest request = ListDisksRequest.newBuilder().setDomain(Client.byUuid(domain.getUuid())).build();
            for (Disk disk : calls.listDisks(request).getDisksList()) {
                System.out.printf("  %s %s %s, %d bytes%n",
                        disk.getTarget(), disk.getFormat(), disk.getSourcePath(), disk.getCapacityBytes());
            }
        }
    }
}
